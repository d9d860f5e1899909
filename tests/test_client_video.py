"""Videos: files decoded and written by the client, and `cutout track`."""

import itertools
import json
import subprocess
import sys
from pathlib import Path

import av
import numpy as np
import PIL.Image
import pytest
from conftest import RunningServer
from cutout_client import AsyncClient, Client
from cutout_client.cli import console, main
from cutout_client.video import Video, VideoWriter
from cutout_server.images import videos
from pycocotools import mask as coco
from test_service_tracking import SIDE, SIZE, iou, picture, place, truth
from videos import video, without_beginning
from waiting import PATIENCE_S, wait_until

from tools import ctrl_c, free_port

FRAMES = 6
BOX = (place(0)[1], place(0)[0], place(0)[1] + SIDE, place(0)[0] + SIDE)


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cup that moves over a cat's fur, as an MP4."""
    path = tmp_path_factory.mktemp("video") / "cup.mp4"
    with VideoWriter(path, 10) as writer:
        for index in range(FRAMES):
            writer.write(picture(index))
    return path


def test_a_file_is_read_as_it_was_written(file: Path):
    """All frames, or those that are asked for, with their numbers and times."""
    with Video(file) as opened:
        info = opened.info
        assert (info.width, info.height, info.rate, info.frames) == (*SIZE[::-1], 10, FRAMES)
        frames = list(opened)
        assert len(frames) == len(opened) == FRAMES
    for index, frame in enumerate(frames):
        assert frame.index == index
        assert frame.timestamp_s == pytest.approx(index / 10)
        assert np.abs(frame.image.astype(int) - picture(index)).mean() < 8
    with Video(file, start=1, end=5, every=2) as opened:
        assert [frame.index for frame in opened] == [1, 3]
        assert len(opened) == 2


def test_what_is_no_video_is_refused(tmp_path: Path, file: Path):
    """By what is wrong with it; a file that ends too soon is read as far as it goes."""
    with pytest.raises(FileNotFoundError, match=r"nothing\.mp4"):
        Video(tmp_path / "nothing.mp4")
    other = tmp_path / "words.mp4"
    other.write_text("these are words" * 100)
    with pytest.raises(ValueError, match=r"words\.mp4 as a video"):
        Video(other)
    with pytest.raises(ValueError, match="every"):
        Video(file, every=0)
    with Client("localhost:1") as client, pytest.raises(FileNotFoundError):
        client.track(tmp_path / "nothing.mp4", boxes=BOX)


def test_a_file_is_followed(server: RunningServer, file: Path):
    """By both clients, from the frame on that is asked for."""
    with Client(server.address) as client:
        answers = list(client.track(file, boxes=BOX, end=3))
    assert [answer.index for answer in answers] == [0, 1, 2]
    assert all(iou(answer[0].mask, truth(answer.index)) > 0.6 for answer in answers)


async def test_a_file_is_followed_by_the_async_client(server: RunningServer, file: Path):
    """Likewise."""
    async with AsyncClient(server.address) as client:
        assert [answer.index async for answer in client.track(file, boxes=BOX, start=0, every=3)] == [0, 3]


@pytest.mark.parametrize("where", [[], ["--on-server"]])
def test_the_command_follows_a_file(
    server: RunningServer, file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], where: list[str]
):
    """And writes label maps, run lengths and a video with the objects drawn on it, wherever it is decoded."""
    out, overlay = tmp_path / "tracked", tmp_path / "tracked.mp4"
    flags = ["--box", ",".join(map(str, BOX)), "--out", str(out), "--overlay", str(overlay), "--server", server.address]
    assert main(["track", str(file), *flags, *where]) == 0
    assert capsys.readouterr().out.startswith(f"objects: 1, frames: {FRAMES}")
    tracks = json.loads((out / "tracks.json").read_text())
    assert tracks["videos"][0]["length"] == FRAMES
    (annotation,) = tracks["annotations"]
    assert len(annotation["segmentations"]) == len(annotation["bboxes"]) == len(annotation["areas"]) == FRAMES
    for index, (segmentation, name) in enumerate(
        zip(annotation["segmentations"], tracks["videos"][0]["file_names"], strict=True)
    ):
        mask = coco.decode(segmentation).astype(bool)
        assert np.array_equal(np.asarray(PIL.Image.open(out / "labels" / name)) == 1, mask)
        assert iou(mask, truth(index)) > 0.6
    with Video(overlay) as drawn:
        for index, frame in enumerate(drawn):
            changed = np.abs(frame.image.astype(int) - picture(index)).mean(axis=2)
            assert changed[truth(index)].mean() > 20
            assert np.median(changed[~truth(index)]) < 8
        assert index == FRAMES - 1


def test_the_server_finds_what_words_say_and_ranges_of_frames(
    server: RunningServer, file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    """In the first frame that is asked for; what cannot be followed is said."""
    out, where = tmp_path / "tracked", ["--on-server", "--server", server.address]
    flags = ["--text", "object", "--start", "1", "--end", "99", "--every", "2", "--out", str(out)]
    assert main(["track", str(file), *flags, *where]) == 0
    assert ", frames: 3, files: " in capsys.readouterr().out
    tracks = json.loads((out / "tracks.json").read_text())
    assert tracks["videos"][0]["file_names"] == ["00001.png", "00003.png", "00005.png"]
    assert {each["name"] for each in tracks["categories"]} == {"object"}
    assert main(["track", str(file), "--text", "license plate", "--json", *where]) == 1
    assert "nothing in the first frame is license plate" in capsys.readouterr().err
    assert main(["track", str(file), "--text", "object", "--json", "--start", "9", *where]) == 1
    assert "start_frame: expected less than 6, got 9" in capsys.readouterr().err


def test_words_are_looked_for_without_sending_the_file(
    server: RunningServer, file: Path, capsys: pytest.CaptureFixture[str]
):
    """In the first frame and, if wanted, in each n-th one; what cannot be followed is said."""
    flags = ["--text", "object", "--text-every", "2", "--json", "--end", "3", "--server", server.address]
    assert main(["track", str(file), *flags]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["frame"] for line in lines] == [0, 1, 2]
    assert {each["name"] for line in lines for each in line["objects"]} == {"object"}
    assert main(["track", str(file), "--text", "license plate", "--json", "--server", server.address]) == 1
    assert "nothing in the first frame is license plate" in capsys.readouterr().err


def test_objects_are_drawn_on_the_frames_in_which_the_server_found_them(server: RunningServer, tmp_path: Path):
    """Also where a file begins in the middle of a group, so that OpenCV counts fewer frames than are in it."""
    path, overlay = tmp_path / "begun.mkv", tmp_path / "tracked.mp4"
    whole = video([picture(index) for index in range(10)], container="matroska", group=4)
    path.write_bytes(without_beginning(whole, 3))
    with av.open(path) as opened:
        indices = sorted(round(packet.pts / 100) for packet in opened.demux(video=0) if packet.size)
    with Video(path) as read:
        assert len(list(read)) < len(indices)
    (top, left), first = place(4), indices.index(4)  # A keyframe.
    flags = ["--box", f"{left},{top},{left + SIDE},{top + SIDE}", "--start", str(first), "--overlay", str(overlay)]
    assert main(["track", str(path), *flags, "--on-server", "--server", server.address]) == 0
    with Video(overlay) as drawn:
        frames = [frame.image.astype(int) for frame in drawn]
    assert len(frames) == len(indices) - first
    for index, frame in enumerate(frames, 4):
        off = {near: np.abs(frame - picture(near))[~truth(index)].mean() for near in range(index - 1, index + 2)}
        assert min(off, key=off.__getitem__) == index


def test_a_file_may_be_closed_while_it_is_read(tmp_path: Path):
    """In another thread, as a session that is stopped does: that one's frames end, and the process lives."""
    path, noise = tmp_path / "noise.mp4", np.random.default_rng(0)
    with VideoWriter(path) as writer:
        for _ in range(60):
            writer.write(noise.integers(0, 255, (360, 640, 3), np.uint8))
    code = """
import sys, threading, time
from cutout_client.video import Video
for number in range(60):
    video = Video(sys.argv[1])
    thread = threading.Thread(target=lambda: list(video))
    thread.start()
    time.sleep(number / 4000)
    video.close()
    thread.join()
"""
    subprocess.run([sys.executable, "-c", code, path], check=True, timeout=PATIENCE_S)


@pytest.mark.parametrize("where", [[], ["--on-server"]])
def test_what_was_written_stays_when_the_command_is_stopped(
    server: RunningServer, file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: list[str]
):
    """By Ctrl-C: label maps, run lengths and the overlay end with the last frame that was written."""
    out, overlay, written = tmp_path / "tracked", tmp_path / "tracked.mp4", itertools.count(1)

    def interrupted(content: object) -> None:
        if next(written) == 3:
            ctrl_c()

    monkeypatch.setattr(console, "write_json", interrupted)
    flags = ["--box", ",".join(map(str, BOX)), "--out", str(out), "--overlay", str(overlay), "--json"]
    assert main(["track", str(file), *flags, *where, "--server", server.address]) == 130
    assert json.loads((out / "tracks.json").read_text())["videos"][0]["length"] == 3
    with Video(overlay) as drawn:
        assert len(list(drawn)) == 3
    wait_until(lambda: server.app.status().tracking.sessions == 0)


def test_a_server_that_reads_no_videos_is_named(
    server: RunningServer, file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    """With what would bring that, and the way without it."""
    monkeypatch.setattr(videos, "is_readable", lambda: False)
    assert main(["track", str(file), "--text", "x", "--json", "--on-server", "--server", server.address]) == 1
    said = capsys.readouterr().err
    assert "[pyav]" in said
    assert "without --on-server frames are decoded here" in said


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--box", "1,2,3,4", "--json"], "either a video or --camera"),
        (["video.mp4", "--json"], "say what to follow"),
        (["video.mp4", "--box", "1,2,3,4"], "say what to write"),
        (["--camera", "0", "--box", "1,2,3,4", "--json", "--on-server"], "--on-server goes with a video"),
        (["video.mp4", "--box", "1,2,3,4", "--json", "--text-every", "5"], "goes with --text"),
        (["video.mp4", "--box", "1,2,3,4", "--json", "--every", "0"], "--every of at least 1"),
    ],
)
def test_flags_of_no_use_are_refused(flags: list[str], said: str, capsys: pytest.CaptureFixture[str]):
    """With what was expected."""
    with pytest.raises(SystemExit):
        main(["track", *flags])
    assert said in capsys.readouterr().err


async def test_a_file_without_a_frame_that_can_be_read_is_no_short_video(server: RunningServer, tmp_path: Path):
    """Nothing followed would look like nothing found: both clients say so, also of a range behind the end."""
    whole = video(map(picture, range(8)), container="matroska")
    path = tmp_path / "video.mkv"
    path.write_bytes(whole[: len(whole) // 10])
    with Client(server.address) as client, pytest.raises(ValueError, match=r"video\.mkv: there is no frame"):
        list(client.track(path, boxes=BOX))
    path.write_bytes(whole)
    async with AsyncClient(server.address) as client:
        with pytest.raises(ValueError, match=r"video\.mkv: there is no frame"):
            [frame async for frame in client.track(path, boxes=BOX, start=8)]


@pytest.mark.parametrize("where", [[], ["--on-server"]])
def test_a_file_that_is_cut_off_is_followed_as_far_as_it_goes(
    server: RunningServer, tmp_path: Path, capsys: pytest.CaptureFixture[str], where: list[str]
):
    """And what is not there is said, once; of a file that is whole nothing is."""
    whole = video(map(picture, range(16)), container="matroska")
    path, flags = tmp_path / "video.mkv", ["--box", ",".join(map(str, BOX)), "--json", "--server", server.address]
    path.write_bytes(whole[: len(whole) * 2 // 3])
    assert main(["track", str(path), *flags, *where]) == 0
    told = capsys.readouterr()
    read = len(told.out.splitlines())
    assert 0 < read < 16
    assert f"some {16 - read} frames that its header promises are not there" in told.err
    path.write_bytes(whole)
    assert main(["track", str(path), *flags, "--end", "3", *where]) == 0
    assert capsys.readouterr().err == ""


def test_frames_that_the_server_cannot_decode_are_named(
    server: RunningServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    """The others are followed."""
    data = bytearray(video(map(picture, range(4)), container="avi", codec="mjpeg"))
    start = [at for at in range(data.index(b"movi"), len(data)) if data[at : at + 4] == b"00dc"][2] + 8
    data[start : start + 1000] = bytes(1000)
    (path := tmp_path / "video.avi").write_bytes(data)
    flags = ["--box", ",".join(map(str, BOX)), "--json", "--on-server", "--server", server.address]
    assert main(["track", str(path), *flags]) == 0
    told = capsys.readouterr()
    assert [json.loads(line)["frame"] for line in told.out.splitlines()] == [0, 1, 3]
    assert "frame 2 could not be decoded" in told.err


def test_what_was_written_before_stays_when_nothing_is_followed(
    file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    """No server is there, say."""
    (tmp_path / "tracks.json").write_text("of a run before")
    flags = ["--box", ",".join(map(str, BOX)), "--out", str(tmp_path), "--server", f"localhost:{free_port()}"]
    assert main(["track", str(file), *flags]) == 1
    assert "nothing listens" in capsys.readouterr().err
    assert (tmp_path / "tracks.json").read_text() == "of a run before"
