"""Many callers at once: nothing is lost, those turned away get in later, and what nobody waits for is not done."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import grpc
import httpx
import numpy as np
import pytest
from conftest import RunningServer, Stubs, run_server
from cutout.v1 import image_pb2, mask_pb2
from cutout.v1 import segmentation_service_pb2 as pb2
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_status import rpc_status
from probe_family import Probe, probe_family
from waiting import PATIENCE_S, wait_until

CALLERS = 56
SLOTS = 74  # Of which one address may have all but a quarter.


def request_of(number: int) -> pb2.SegmentByBoxRequest:
    """Of a picture and a box of its own."""
    pixels = np.full((24, 400, 3), number % 256, np.uint8)
    tensor = image_pb2.RawTensor(height=24, width=400, channels=3, data=pixels.tobytes())
    box = mask_pb2.Box(x_min=20 + number, y_min=2, x_max=22 + number, y_max=8)
    return pb2.SegmentByBoxRequest(image=image_pb2.Image(tensor=tensor), boxes=[box])


def assert_answers(answer: pb2.SegmentByBoxResponse, number: int) -> None:
    """The box and the brightness are those of the request, and of no other."""
    (found,) = answer.segmentation.objects
    assert (found.box.x_min, found.box.x_max, found.area) == (20 + number, 22 + number, 12)
    assert found.predicted_iou == pytest.approx(number % 256 / 255)


def delay_of(error: grpc.RpcError) -> float:
    """What RetryInfo says, in seconds."""
    status = rpc_status.from_call(error)
    for detail in status.details:
        retry = error_details_pb2.RetryInfo()
        if detail.Unpack(retry):
            return retry.retry_delay.seconds + retry.retry_delay.nanos / 1e9
    raise AssertionError(f"no RetryInfo in {status}")


def in_hand(server: RunningServer) -> int:
    return server.app.status().devices[0].requests


@pytest.mark.slow
def test_a_full_queue():
    """Those beyond it are told a delay at once, those who leave or run out of time cost nothing, the others are served.

    Meanwhile health and metrics answer.
    """
    probe = Probe()
    with (
        probe_family(probe) as model,
        run_server(models=[model], max_requests_per_device=SLOTS) as loaded,
        loaded.channel() as channel,
    ):
        segment = Stubs.over(channel).segmentation.SegmentByBox
        first = segment.future(request_of(0))
        wait_until(lambda: probe.passes == [("encode", 1)])
        for timeout_s in (1, 5, 25, 125):
            hasty = [segment.future(request_of(number), timeout=timeout_s) for number in range(56, 64)]
            wait_until(lambda calls=hasty: in_hand(loaded) == 9 or all(call.done() for call in calls))
            all_came = in_hand(loaded) == 9
            assert {call.exception().code() for call in hasty} == {grpc.StatusCode.DEADLINE_EXCEEDED}
            wait_until(lambda: in_hand(loaded) == 1)
            if all_came:  # A busy machine may need more time to let them in.
                break
        assert all_came
        before = loaded.app.status().devices[0].queued_jobs  # Theirs go when the device looks for its next pass.
        patient = [segment.future(request_of(number)) for number in range(1, 40)]
        leaving = [segment.future(request_of(number)) for number in range(40, 56)]
        wait_until(lambda: in_hand(loaded) == CALLERS)
        # Their pictures are read while the first is in the encoder.
        wait_until(lambda: loaded.app.status().devices[0].queued_jobs == before + CALLERS - 1)
        for number in range(64, 68):
            with pytest.raises(grpc.RpcError) as refused:
                segment(request_of(number))
            assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
            assert 0.1 <= delay_of(refused.value) <= 60
        checked = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=PATIENCE_S)
        assert "cutout_requests_in_hand" in httpx.get(loaded.metrics_url, timeout=PATIENCE_S).text
        assert checked.status == health_pb2.HealthCheckResponse.SERVING
        for call in leaving:
            call.cancel()
        wait_until(lambda: in_hand(loaded) == 40)
        probe.gate.set()
        for number, call in enumerate([first, *patient]):
            assert_answers(call.result(timeout=PATIENCE_S), number)
        wait_until(lambda: in_hand(loaded) == 0)
        assert loaded.app.status().devices[0].queued_jobs == 0
    assert (probe.count("encode"), probe.count("decode")) == (40, 40)


@pytest.mark.slow
def test_whoever_obeys_is_served():
    """Four times as many callers as seats, each at once with its next request: all of them get all their answers."""
    probe = Probe()
    probe.gate.set()
    rounds, seats = 4, CALLERS // 4
    answered: list[int] = []
    start = threading.Barrier(CALLERS)

    def call(address: str, caller: int) -> None:
        with grpc.insecure_channel(address, [("grpc.use_local_subchannel_pool", 1)]) as channel:
            segment = Stubs.over(channel).segmentation.SegmentByBox
            start.wait(PATIENCE_S)
            for number in range(rounds * caller, rounds * caller + rounds):
                while number not in answered:
                    try:
                        answer = segment(request_of(number), timeout=PATIENCE_S)
                    except grpc.RpcError as error:
                        time.sleep(delay_of(error))
                    else:
                        assert_answers(answer, number)
                        answered.append(number)

    def slowly(self: Probe, images: list[np.ndarray]) -> list[object]:
        time.sleep(0.02)
        return encode(self, images)

    encode = Probe.encode
    with (
        pytest.MonkeyPatch.context() as patch,
        probe_family(probe) as model,
        run_server(models=[model], max_requests_per_device=seats) as server,
        ThreadPoolExecutor(CALLERS) as pool,
    ):
        patch.setattr(Probe, "encode", slowly)
        for done in [pool.submit(call, server.address, caller) for caller in range(CALLERS)]:
            done.result()
        wait_until(lambda: in_hand(server) == 0)
    assert sorted(answered) == list(range(rounds * CALLERS))
