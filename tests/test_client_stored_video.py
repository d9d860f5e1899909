"""Stored videos by the Python client: both clients, frames as pictures, words, what cannot be sent."""

from pathlib import Path

import numpy as np
import pytest
from conftest import RunningServer
from cutout_client import AsyncClient, Client, NotFoundError, TrackPrompt
from test_service_tracking import SIDE, SIZE, iou, picture, place, truth
from videos import RATE, video

COUNT = 5


def boxed(index: int) -> TrackPrompt:
    top, left = place(index)
    return TrackPrompt(box=(left, top, left + SIDE, top + SIDE))


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("video") / "cup.mp4"
    path.write_bytes(video([picture(index) for index in range(COUNT)]))
    return path


def test_a_video_is_stored_followed_shown_and_forgotten(server: RunningServer, file: Path):
    """Progress, numbers, times and masks come with the frames; a frame of it is a picture."""
    with Client(server.address) as client:
        stored = client.upload_video(file)
        assert (stored.width, stored.height, stored.frame_count, stored.codec) == (*SIZE[::-1], COUNT, "h264")
        assert stored.frame_rate == pytest.approx(RATE)
        assert client.video(stored.video_id).sha256 == stored.sha256
        prompts = {2: {7: boxed(2)}}
        with client.track_video(stored, prompts=prompts, direction="both") as stream:
            frames = list(stream)
            assert stream.tracker == "builtin"
            assert (stream.frames_done, stream.frames_total, stream.unreadable_frames) == (6, 6, ())
        assert [frame.index for frame in frames] == [2, 3, 4, 1, 0]
        for frame in frames:
            assert frame.timestamp_s == pytest.approx(frame.index / RATE)
            assert iou(frame[0].mask, truth(frame.index)) > 0.6
            assert set(np.unique(frame.labels())) == {0, 7}
        with pytest.raises(ValueError, match="server's side"):
            frames[0].overlay()
        top, left = place(2)
        found = client.segment_box(stored.frame(2), (left, top, left + SIDE, top + SIDE))
        assert iou(found[0].mask, truth(2)) > 0.6
        with client.track_video(stored, phrases={0: "object"}, end=2, every=2, phrases_every=1) as stream:
            assert [frame.index for frame in stream] == [0, 1]  # The second is worked on for the phrases alone.
            assert set(stream.names.values()) == {"object"}
        client.delete_video(stored)
        with pytest.raises(NotFoundError) as gone:
            list(client.track_video(stored, prompts=prompts))
        assert gone.value.reason == "VIDEO_NOT_FOUND"


def test_a_frame_without_objects_has_an_empty_map(server: RunningServer):
    """Of the frame's size, though its pixels are on the server alone."""
    data = video([picture(0), *[np.full((*SIZE, 3), 128, np.uint8)] * 2], group=1)
    with (
        Client(server.address) as client,
        client.track_video(client.upload_video(data), prompts={0: {7: boxed(0)}}) as stream,
    ):
        frames = list(stream)
    assert [frame[0].present for frame in frames] == [True, False, False]
    assert frames[-1].labels().shape == SIZE
    assert not frames[-1].labels().any()


@pytest.fixture(scope="module")
def content(file: Path) -> bytes:
    return file.read_bytes()


async def test_the_async_client_does_the_same(server: RunningServer, content: bytes):
    """From the bytes of a file, too."""
    async with AsyncClient(server.address) as client:
        stored = await client.upload_video(content)
        stream = client.track_video(stored, prompts={1: {7: boxed(1)}}, every=2)
        assert [frame.index async for frame in stream] == [1, 2, 4]
        assert (await client.video(stored)).frame_count == COUNT
        await client.delete_video(stored.video_id)
        with pytest.raises(NotFoundError):
            await client.video(stored)


def test_what_cannot_be_sent_is_refused_at_once(tmp_path: Path):
    """Before anything is sent, with what was expected."""
    with Client("localhost:1") as client:
        with pytest.raises(FileNotFoundError, match=r"nothing\.mp4"):
            client.upload_video(tmp_path / "nothing.mp4")
        with pytest.raises(ValueError, match="forward"):
            client.track_video("vid", prompts={}, direction="forwards")  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="every"):
            client.track_video("vid", prompts={}, every=0)
