"""Callers who have many videos read: they fill no disk by deleting them, and others wait no longer than is said."""

import sys
from pathlib import Path

import grpc
import pytest
from conftest import run_server
from cutout.v1 import tracking_service_pb2_grpc, video_service_pb2_grpc
from cutout.v1 import video_service_pb2 as pb2
from cutout_common.pace import MAX_DELAY_S
from cutout_common.status import unpack
from cutout_server.images import decode_process
from grpc_status import rpc_status
from test_service_tracking import boxed, picture
from test_video_service import WithKey
from videos import asked, is_stored, refusal, upload, video
from waiting import PATIENCE_S, wait_until

from adversarial.stack import BAD, GOOD
from adversarial.test_slow_pictures import HELD
from adversarial.test_uploads import KEYS, on_disk

DATA = video([picture(index) for index in range(3)])
STORE = 3 * len(DATA) + len(DATA) // 2


def test_what_is_read_counts_until_it_leaves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """And takes none of another's share: its upload fits in beside. Once nothing is read there is room again."""
    gate, folder = tmp_path / "gate", tmp_path / "store"
    monkeypatch.setenv("HELD_WORKER_GATE", str(gate))
    monkeypatch.setattr(decode_process, "COMMAND", (sys.executable, HELD))
    settings = {"image_store_dir": folder, "image_store_bytes": STORE, "api_keys": KEYS, "max_video_bytes": STORE}
    with run_server(**settings) as server, server.channel() as channel:
        bad, good = (grpc.intercept_channel(channel, WithKey(key)) for key in (BAD, GOOD))
        store, calls = server.app.parts.store, []
        for _ in range(3):
            video_id = upload(bad, DATA).video_id
            call = tracking_service_pb2_grpc.TrackingServiceStub(channel).TrackVideo(
                asked(video_id, {"frame": 0, "prompts": [boxed(1)]}), metadata=[("x-api-key", BAD)]
            )
            assert next(call).HasField("started")
            wait_until(lambda video_id=video_id: store._holders[video_id])
            calls.append(call)
            video_service_pb2_grpc.VideoServiceStub(bad).DeleteVideo(pb2.DeleteVideoRequest(video_id=video_id))
            assert not is_stored(bad, video_id)
        assert on_disk(folder) == server.app.status().stored_bytes == 3 * len(DATA)
        with pytest.raises(grpc.RpcError) as refused:
            upload(bad, DATA)
        assert refusal(refused.value)[:2] == (grpc.StatusCode.RESOURCE_EXHAUSTED, "QUOTA_EXCEEDED")
        kept = [upload(good, DATA).video_id for _ in range(2)]
        assert [is_stored(good, each) for each in kept] == [False, True]
        assert on_disk(folder) == server.app.status().stored_bytes == 4 * len(DATA)
        gate.touch()
        assert [list(call)[-1].WhichOneof("message") for call in calls] == ["summary"] * 3
        wait_until(lambda: on_disk(folder) == server.app.status().stored_bytes == len(DATA))
        assert is_stored(bad, upload(bad, DATA).video_id)


def test_videos_that_take_long_leave_room_for_anothers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """One caller has three places of four, and whoever finds none is told so at once, and when to come again."""
    gate = tmp_path / "gate"
    monkeypatch.setenv("HELD_WORKER_GATE", str(gate))
    monkeypatch.setattr(decode_process, "COMMAND", (sys.executable, HELD))
    with run_server(api_keys=KEYS, video_processes=1) as server, server.channel() as channel:
        stub = tracking_service_pb2_grpc.TrackingServiceStub(channel)
        asks = {}
        for key in (BAD, GOOD):
            video_id = upload(grpc.intercept_channel(channel, WithKey(key)), DATA).video_id
            asks[key] = asked(video_id, {"frame": 0, "prompts": [boxed(1)]})

        def follow(key: str) -> grpc.Call:
            return stub.TrackVideo(asks[key], metadata=[("x-api-key", key)], timeout=PATIENCE_S)

        calls = [follow(BAD) for _ in range(3)]
        assert all(next(call).HasField("started") for call in calls)
        for key, reason in ((BAD, "QUOTA_EXCEEDED"), (GOOD, ""), (GOOD, "QUEUE_FULL"), (BAD, "QUEUE_FULL")):
            call = follow(key)
            if not reason:
                assert next(call).HasField("started")
                calls.append(call)
                continue
            with pytest.raises(grpc.RpcError) as refused:
                next(call)
            assert refusal(refused.value)[:2] == (grpc.StatusCode.RESOURCE_EXHAUSTED, reason)
            assert ("quota of video_processes" in refused.value.details()) == (reason == "QUOTA_EXCEEDED")
            assert 0 < unpack(rpc_status.from_call(refused.value)).retry_after_s <= MAX_DELAY_S
        gate.touch()
        assert [list(call)[-1].WhichOneof("message") for call in calls] == ["summary"] * 4
        assert [message.WhichOneof("message") for message in follow(GOOD)][-1] == "summary"
