"""Connections, calls and sessions of a server are bounded: one too many is told, and those inside are served."""

import contextlib
import queue
import socket

import grpc
import pytest
from conftest import Photo, Stubs, run_server
from cutout.v1 import mask_pb2
from cutout.v1 import segmentation_service_pb2 as pb2
from cutout_common.status import unpack
from google.rpc.status_pb2 import Status
from grpc_health.v1 import health_pb2, health_pb2_grpc
from waiting import PATIENCE_S, wait_until

BOX = mask_pb2.Box(x_min=60, y_min=20, x_max=400, y_max=290)


def is_healthy(channel: grpc.Channel) -> bool:
    try:
        health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=PATIENCE_S)
    except grpc.RpcError as error:
        return error.code() is not grpc.StatusCode.UNAVAILABLE
    return True


def test_one_connection_too_many():
    """It is closed, those that were there go on, and there is room again when they are gone."""
    own = [("grpc.use_local_subchannel_pool", 1)]
    with run_server(max_connections=3) as server, grpc.insecure_channel(server.address, own) as inside:
        assert is_healthy(inside)
        host, _, port = server.address.rpartition(":")
        with contextlib.ExitStack() as opened:

            def is_full() -> bool:
                opened.enter_context(socket.create_connection((host, int(port)), PATIENCE_S))
                with grpc.insecure_channel(server.address, own) as outside:
                    return not is_healthy(outside)

            wait_until(is_full)
            assert is_healthy(inside)
        with grpc.insecure_channel(server.address, own) as outside:
            wait_until(lambda: is_healthy(outside))


@pytest.mark.parametrize("setting", ["max_calls", "max_sessions"])
def test_one_call_too_many(setting: str, photos: dict[str, Photo]):
    """It is refused with a delay; the session inside goes on, and when it ends there is room."""
    messages: queue.SimpleQueue[pb2.SegmentSessionRequest | None] = queue.SimpleQueue()
    opening = pb2.SegmentSessionRequest(open=pb2.SessionOpen(image={"content": photos["chelsea"].jpeg}))
    messages.put(opening)
    with run_server(**{setting: 1}) as server, server.channel() as channel:
        segmentation = Stubs.over(channel).segmentation
        session = segmentation.SegmentSession(iter(messages.get, None))
        assert next(session).WhichOneof("message") == "opened"
        with pytest.raises(grpc.RpcError) as refused:
            list(segmentation.SegmentSession(iter([opening])))
        told = unpack(Status.FromString(dict(refused.value.trailing_metadata())["grpc-status-details-bin"]))
        assert told.reason == {"max_calls": "TOO_MANY_CALLS", "max_sessions": "TOO_MANY_SESSIONS"}[setting]
        assert told.retry_after_s is not None
        messages.put(pb2.SegmentSessionRequest(box=pb2.SegmentByBoxRequest(boxes=[BOX])))
        assert next(session).WhichOneof("message") == "segmentation"
        messages.put(None)
        assert list(session) == []
        wait_until(lambda: opens(segmentation, opening))


def opens(segmentation: object, opening: pb2.SegmentSessionRequest) -> bool:
    with contextlib.suppress(grpc.RpcError):
        return bool(list(segmentation.SegmentSession(iter([opening]))))
    return False
