"""Uploaded pictures at rest: for their owner alone, for their time, and never longer than their server."""

import asyncio
import io
import os
import shutil
import signal
import stat
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import psutil
import pytest
from conftest import Photo, Stubs, run_server
from cutout.v1 import image_service_pb2, mask_pb2
from cutout.v1 import segmentation_service_pb2 as pb2
from cutout_common.status import unpack
from cutout_server import call_context
from cutout_server.callers.accounts import Account
from cutout_server.callers.quotas import Quotas
from cutout_server.images import store
from cutout_server.images.early_decoding import EarlyDecoding
from cutout_server.images.pixel_budget import PixelBudget
from cutout_server.images.private_folder import PrivateFolder
from cutout_server.images.uploads import Uploads
from cutout_server.imaging.decode import ImageLimits
from disks import small_disk
from google.rpc.status_pb2 import Status
from grpc_health.v1 import health_pb2, health_pb2_grpc
from test_process import start
from waiting import PATIENCE_S, wait_until

SERVING, NOT_SERVING = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING
PIECE = 16 * 1024


def upload(channel: grpc.Channel, data: bytes) -> str:
    pieces = (data[at : at + PIECE] for at in range(0, len(data), PIECE))
    messages = (image_service_pb2.UploadImageRequest(chunk={"data": piece}) for piece in pieces)
    return Stubs.over(channel).images.UploadImage(messages).image_id


def download(channel: grpc.Channel, image_id: str) -> bytes:
    request = image_service_pb2.GetImageRequest(image_id=image_id)
    return b"".join(body.data for body in Stubs.over(channel).images.GetImage(request))


def refused(channel: grpc.Channel, data: bytes) -> tuple[grpc.StatusCode, str, bool, str]:
    """Code, reason, whether a retry is worth it, and message of an upload that fails."""
    with pytest.raises(grpc.RpcError) as error:
        upload(channel, data)
    details = unpack(Status.FromString(dict(error.value.trailing_metadata())["grpc-status-details-bin"]))
    return error.value.code(), details.reason, details.retry_after_s is not None, error.value.details()


def health(channel: grpc.Channel, service: str = "cutout.v1.ImageService") -> int:
    return health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(service=service)).status


def files(parent: Path) -> list[Path]:
    """All pictures at rest."""
    return [path for path in parent.rglob("*") if path.is_file()]


@pytest.fixture
def parent(tmp_path: Path) -> Path:
    return tmp_path / "kept" / "here"


@pytest.fixture
def looks_often(monkeypatch: pytest.MonkeyPatch):
    """The folder of a server in this process is looked at more often than every few seconds."""
    monkeypatch.setattr(store, "LOOK_S", 0.1)


@pytest.mark.usefixtures("looks_often")
def test_uploads_expire_though_nobody_asks_for_them(parent: Path, photos: dict[str, Photo]):
    """Their files are gone when their time is up, without another call."""
    with run_server(image_store_dir=parent, image_store_ttl_s=0.5) as server, server.channel() as channel:
        upload(channel, photos["chelsea"].jpeg)
        wait_until(lambda: not files(parent))
        assert server.app.status().stored_bytes == 0


def test_only_the_owner_can_read_them(parent: Path, photos: dict[str, Photo]):
    """Folder and files give nobody else any right, whatever the process's mask says."""
    before = os.umask(0)
    try:
        with run_server(image_store_dir=parent) as server, server.channel() as channel:
            upload(channel, photos["chelsea"].jpeg)
            (file,) = files(parent)
            modes = [stat.S_IMODE(path.stat().st_mode) for path in (file, file.parent, parent)]
    finally:
        os.umask(before)
    assert modes == [0o600, 0o700, 0o700]


@pytest.mark.slow
def test_a_killed_servers_pictures_are_removed_by_the_next(parent: Path, photos: dict[str, Photo]):
    """Those of another server that still runs are not, and its callers do not feel it."""
    data = photos["chelsea"].jpeg
    with run_server(image_store_dir=parent) as running, running.channel() as channel:
        image_id = upload(channel, data)
        kept = files(parent)
        with start("--image-store-dir", str(parent)) as process, grpc.insecure_channel(process.address) as other:
            upload(other, data)
            process.popen.send_signal(signal.SIGKILL)
            process.popen.wait()
        assert len(files(parent)) == 2
        with run_server(image_store_dir=parent):
            assert files(parent) == kept
        assert download(channel, image_id) == data
    assert not files(parent)


def test_folders_are_made_beside_each_other(parent: Path):
    """Nobody takes a folder for an abandoned one that somebody is just making."""

    def make_and_remove(_: int) -> None:
        folder = PrivateFolder(parent)
        assert folder.is_there()
        folder.remove()

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(make_and_remove, range(400)))


def says_so(channel: grpc.Channel, photo: Photo, expected: str) -> None:
    """What callers and health are told while no picture can be kept."""
    code, reason, retry, message = refused(channel, photo.jpeg)
    assert (code, reason, retry) == (grpc.StatusCode.UNAVAILABLE, "IMAGE_STORE_UNAVAILABLE", True)
    assert expected in message
    wait_until(lambda: health(channel) == NOT_SERVING)
    assert health(channel, "") == SERVING
    box = mask_pb2.Box(x_min=60, y_min=20, x_max=400, y_max=290)
    request = pb2.SegmentByBoxRequest(image={"content": photo.jpeg}, boxes=[box])
    assert Stubs.over(channel).segmentation.SegmentByBox(request).segmentation.objects


@pytest.mark.usefixtures("looks_often")
def test_a_full_disk_is_unavailable_until_there_is_room(tmp_path: Path, photos: dict[str, Photo]):
    """Uploads say why they fail, leave nothing, and health of uploads says so; all else goes on."""
    photo = photos["chelsea"]
    with (
        small_disk(tmp_path / "disk", 256 * 1024) as disk,
        run_server(image_store_dir=disk) as server,
        server.channel() as channel,
    ):
        filler = disk / "filler"
        filler.write_bytes(bytes(256 * 1024 - len(photo.jpeg) // 2))
        says_so(channel, photo, "its disk is full")
        assert files(disk) == [filler]
        assert not server.app.status().store_available
        filler.unlink()
        wait_until(lambda: health(channel) == SERVING)
        assert download(channel, upload(channel, photo.jpeg)) == photo.jpeg


@pytest.mark.slow
def test_a_server_that_may_write_nothing_is_unavailable_until_it_may(parent: Path, photos: dict[str, Photo]):
    """The same by a bound that the system sets a process, which needs no disk of its own."""
    photo = photos["chelsea"]
    with start("--image-store-dir", str(parent)) as process, grpc.insecure_channel(process.address) as channel:
        system = psutil.Process(process.popen.pid)
        before = system.rlimit(psutil.RLIMIT_FSIZE)
        system.rlimit(psutil.RLIMIT_FSIZE, (0, before[1]))
        says_so(channel, photo, "its disk is full")
        (event,) = process.events("uploads cannot be kept")
        assert str(parent) in str(event["folder"])
        assert files(parent) == []
        system.rlimit(psutil.RLIMIT_FSIZE, before)
        wait_until(lambda: health(channel) == SERVING)
        assert download(channel, upload(channel, photo.jpeg)) == photo.jpeg


def test_a_folder_that_something_removes_is_made_again(parent: Path, photos: dict[str, Photo]):
    """Its pictures are lost, and callers are told to upload them again, which works."""
    data = photos["chelsea"].jpeg
    with run_server(image_store_dir=parent) as server, server.channel() as channel:
        lost = upload(channel, data)
        shutil.rmtree(parent)
        with pytest.raises(grpc.RpcError) as gone:
            download(channel, lost)
        assert gone.value.code() is grpc.StatusCode.NOT_FOUND
        assert "upload it again" in gone.value.details()
        assert download(channel, upload(channel, data)) == data
        assert health(channel) == SERVING


@pytest.mark.usefixtures("looks_often")
def test_a_folder_that_cannot_be_made_again_is_unavailable(parent: Path, photos: dict[str, Photo]):
    """Until whatever is in its place has gone."""
    with run_server(image_store_dir=parent) as server, server.channel() as channel:
        upload(channel, photos["chelsea"].jpeg)
        shutil.rmtree(parent)
        parent.write_text("in its place")
        says_so(channel, photos["chelsea"], "its disk failed")
        parent.unlink()
        wait_until(lambda: health(channel) == SERVING)
        upload(channel, photos["chelsea"].jpeg)


def test_a_folder_removed_amid_an_upload(parent: Path, photos: dict[str, Photo]):
    """The caller is told to come back, and what comes then is kept."""
    data = photos["chelsea"].jpeg

    def messages() -> Iterator[image_service_pb2.UploadImageRequest]:
        yield image_service_pb2.UploadImageRequest(chunk={"data": data[:PIECE]})
        wait_until(lambda: files(parent))
        shutil.rmtree(parent)
        for at in range(PIECE, len(data), PIECE):
            yield image_service_pb2.UploadImageRequest(chunk={"data": data[at : at + PIECE]})

    with run_server(image_store_dir=parent) as server, server.channel() as channel:
        with pytest.raises(grpc.RpcError) as lost:
            Stubs.over(channel).images.UploadImage(messages())
        assert lost.value.code() is grpc.StatusCode.UNAVAILABLE
        assert "their folder was removed" in lost.value.details()
        wait_until(lambda: server.app.status().store_available)
        assert download(channel, upload(channel, data)) == data


@pytest.mark.parametrize("held", ["create", "write", "look"])
async def test_whoever_leaves_while_the_disk_is_slow_leaves_nothing(
    parent: Path, held: str, monkeypatch: pytest.MonkeyPatch
):
    """No file that nobody knows of, none that is closed while it is written, and no word of a disk that fails."""
    begun, goes_on, done = threading.Event(), threading.Event(), threading.Event()
    closed = []

    def slowly(work: Callable[..., object]) -> Callable[..., object]:
        def later(*args: object) -> object:
            begun.set()
            assert goes_on.wait(PATIENCE_S)
            closed.extend(each.closed for each in args if isinstance(each, io.FileIO))
            try:
                return work(*args)
            finally:
                done.set()

        return later

    folder, limits = PrivateFolder(parent), ImageLimits(max_bytes=1000, max_pixels=1000)
    kept = store.ImageStore(folder, max_bytes=1000, max_images=1, ttl_s=PATIENCE_S)
    arrivals = EarlyDecoding(PixelBudget(1000), limits)
    if held == "create":
        monkeypatch.setattr(folder, "create", slowly(folder.create))
    elif held == "write":
        monkeypatch.setattr(store, "_append", slowly(store._append))
    else:
        monkeypatch.setattr(Uploads, "_probe", slowly(Uploads._probe))

    async def chunks() -> AsyncIterator[bytes]:
        yield b"no picture"

    account = Account("caller", "caller", Quotas())
    call_context.begin(call_context.Call("id", "caller", float("inf"), account=account))
    with ThreadPoolExecutor(1) as threads:
        upload = asyncio.ensure_future(Uploads(kept, threads, limits, arrivals).receive(chunks(), field="chunk.data"))
        assert await asyncio.to_thread(begun.wait, PATIENCE_S)
        for _ in range(2):  # Its deadline passes, and its caller leaves.
            upload.cancel()
            for _ in range(3):  # So that it is gone if it does not wait.
                await asyncio.sleep(0)
        goes_on.set()
        await asyncio.gather(upload, return_exceptions=True)
        assert await asyncio.to_thread(done.wait, PATIENCE_S)
    assert upload.cancelled()
    assert files(parent) == []
    assert not any(closed)
    assert kept.is_available
    assert (account.uploads, account.arriving_bytes, kept.arriving_bytes) == (0, 0, 0)
    await arrivals.close()
    kept.close()
