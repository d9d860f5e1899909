"""A caller who deletes videos while they are read, to fill the disk with files that nobody counts."""

import sys
from pathlib import Path

import grpc
import pytest
from conftest import run_server
from cutout.v1 import tracking_service_pb2_grpc, video_service_pb2_grpc
from cutout.v1 import video_service_pb2 as pb2
from cutout_server.images import decode_process
from test_service_tracking import boxed, picture
from test_video_service import WithKey
from videos import asked, is_stored, refusal, upload, video
from waiting import wait_until

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
