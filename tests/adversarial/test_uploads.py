"""A caller who wants all the room for uploaded pictures, by files that never end or by more than others have."""

import contextlib
import io
import threading
from collections.abc import Iterator
from pathlib import Path

import grpc
import numpy as np
import pytest
from conftest import RunningServer, Stubs, run_server
from cutout.v1 import image_service_pb2 as pb2
from cutout.v1.segmentation_service_pb2 import SegmentSessionRequest
from cutout_common.status import ErrorDetails, unpack
from grpc_status import rpc_status
from PIL import Image as Pillow
from waiting import PATIENCE_S, settled, wait_until

from adversarial.stack import BAD, GOOD

KIB = 1024
STORE = 64 * KIB
KEYS = [{"caller": "good", "key": GOOD}, {"caller": "bad", "key": BAD, "roles": ["operator"]}]


def picture(size_bytes: int, seed: int) -> bytes:
    """A PNG of about so many bytes."""
    side = int((size_bytes / 3) ** 0.5)
    file = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (side, side, 3)).astype(np.uint8)
    Pillow.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def upload(stubs: Stubs, key: str, data: bytes) -> str:
    pieces = (pb2.UploadImageRequest(chunk={"data": data[at : at + 4 * KIB]}) for at in range(0, len(data), 4 * KIB))
    return stubs.images.UploadImage(pieces, metadata=[("x-api-key", key)]).image_id


def is_there(stubs: Stubs, key: str, image_id: str) -> bool:
    call = stubs.images.GetImage(pb2.GetImageRequest(image_id=image_id), metadata=[("x-api-key", key)])
    try:
        return bool(list(call))
    except grpc.RpcError:
        assert call.code() is grpc.StatusCode.NOT_FOUND
        return False


def quota(error: grpc.RpcError) -> ErrorDetails:
    details = unpack(rpc_status.from_call(error))
    assert (error.code(), details.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "QUOTA_EXCEEDED")
    return details


@contextlib.contextmanager
def store(folder: Path, **settings: object) -> Iterator[tuple[RunningServer, Stubs]]:
    """A server with little room for pictures, all of it below a folder."""
    small = {"image_store_dir": folder, "image_store_bytes": STORE, "api_keys": KEYS, "max_upload_bytes": STORE}
    with run_server(**small | settings) as server, server.channel() as channel:
        yield server, Stubs.over(channel)


def on_disk(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def test_one_caller_cannot_evict_anothers_pictures(tmp_path: Path):
    """However many it uploads, its own make room; when both have many, each keeps its half."""
    with store(tmp_path) as (_, stubs):
        goods = [upload(stubs, GOOD, picture(8 * KIB, seed)) for seed in range(2)]
        bads = [upload(stubs, BAD, picture(8 * KIB, seed)) for seed in range(20)]
        assert all(is_there(stubs, GOOD, each) for each in goods)
        assert [is_there(stubs, BAD, each) for each in bads][-4:] == [True] * 4
        more = [upload(stubs, GOOD, picture(8 * KIB, seed)) for seed in range(3)]
        assert sum(is_there(stubs, GOOD, each) for each in (*goods, *more)) >= 3
        assert on_disk(tmp_path) <= STORE


def test_nor_by_their_number(tmp_path: Path):
    """The same where the store is full of small ones."""
    with store(tmp_path, image_store_images=6) as (server, stubs):
        goods = [upload(stubs, GOOD, picture(300, seed)) for seed in range(2)]
        bads = [upload(stubs, BAD, picture(300, seed)) for seed in range(12)]
        assert all(is_there(stubs, GOOD, each) for each in goods)
        assert [is_there(stubs, BAD, each) for each in bads] == [False] * 8 + [True] * 4
        assert server.app.status().stored_images == 6


def test_uploads_that_never_end_take_no_more_room_than_there_is(tmp_path: Path):
    """Dozens at once: beyond half of the room they are refused, others' pictures stay, and others' uploads fit in."""
    over = threading.Event()

    def endless() -> Iterator[pb2.UploadImageRequest]:
        while not over.is_set():
            yield pb2.UploadImageRequest(chunk={"data": bytes(2 * KIB)})
            over.wait(0.02)

    with store(tmp_path) as (server, stubs):
        kept = upload(stubs, GOOD, picture(8 * KIB, 1))
        calls = [stubs.images.UploadImage.future(endless(), metadata=[("x-api-key", BAD)]) for _ in range(30)]
        try:
            wait_until(lambda: sum(call.done() for call in calls) >= 20)
            for call in (call for call in calls if call.done()):
                details = quota(call.exception())
                assert details.metadata["quota"] in {"unfinished_upload_bytes", "stored_bytes"}
                assert details.retry_after_s > 0
            assert on_disk(tmp_path) <= STORE
            assert is_there(stubs, GOOD, kept)
            assert is_there(stubs, GOOD, upload(stubs, GOOD, picture(8 * KIB, 2)))
            assert is_there(stubs, GOOD, kept)
        finally:
            over.set()
        for call in calls:
            call.cancel()
        account = server.app.accounts.of("bad", "bad")
        wait_until(lambda: (account.uploads, account.arriving_bytes) == (0, 0))
        assert settled(lambda: on_disk(tmp_path)) == server.app.status().stored_bytes


@pytest.mark.parametrize("by", ["UploadImage", "SegmentSession"])
def test_no_more_uploads_at_once_than_the_quota(tmp_path: Path, by: str):
    """One more is refused by its number, from uploads and sessions alike; another caller's begins."""
    keys = [{**KEYS[1], "quotas": {"unfinished_uploads": 2}}, KEYS[0]]
    over = threading.Event()

    def waiting() -> Iterator[pb2.UploadImageRequest]:
        yield pb2.UploadImageRequest(chunk={"data": b"x"})
        over.wait(PATIENCE_S)

    with store(tmp_path, api_keys=keys) as (server, stubs):
        held = [stubs.images.UploadImage.future(waiting(), metadata=[("x-api-key", BAD)]) for _ in range(2)]
        wait_until(lambda: server.app.accounts.of("bad", "bad").uploads == 2)
        one_more = {
            "UploadImage": lambda: upload(stubs, BAD, picture(KIB, 1)),
            "SegmentSession": lambda: next(
                stubs.segmentation.SegmentSession(iter(session(picture(KIB, 1))), metadata=[("x-api-key", BAD)])
            ),
        }
        with pytest.raises(grpc.RpcError) as refused:
            one_more[by]()
        assert quota(refused.value).metadata == {"quota": "unfinished_uploads", "bound": "2", "use": "2"}
        assert upload(stubs, GOOD, picture(KIB, 1))
        over.set()
        assert [call.code() for call in held] == [grpc.StatusCode.INVALID_ARGUMENT] * 2


def session(data: bytes) -> list[SegmentSessionRequest]:
    """The messages that open one."""
    return [SegmentSessionRequest(open={}), SegmentSessionRequest(image_chunk={"data": data, "last": True})]


def test_what_a_key_may_keep(tmp_path: Path):
    """Its oldest leave when it uploads more, though there is room; a file beyond all of it never fits."""
    quotas = {"stored_bytes": 20 * KIB, "stored_images": 3}
    with store(tmp_path, api_keys=[{**KEYS[1], "quotas": quotas}, KEYS[0]]) as (server, stubs):
        small = [upload(stubs, BAD, picture(300, seed)) for seed in range(4)]
        assert [is_there(stubs, BAD, each) for each in small] == [False, True, True, True]
        large = [upload(stubs, BAD, picture(9 * KIB, seed)) for seed in range(3)]
        assert [is_there(stubs, BAD, each) for each in large] == [False, True, True]
        with pytest.raises(grpc.RpcError) as refused:
            upload(stubs, BAD, picture(30 * KIB, 1))
        details = quota(refused.value)
        assert (details.metadata["quota"], details.metadata["bound"]) == ("stored_bytes", str(20 * KIB))
        assert details.retry_after_s is None
        assert server.app.accounts.of("bad", "bad").stored_bytes == server.app.status().stored_bytes
