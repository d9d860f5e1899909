"""Video files as frames: all formats, both ways, turned, cut off, damaged, beyond the limits."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from cutout_server.errors import InvalidRequestError
from cutout_server.imaging import video as module
from cutout_server.imaging.video import VideoLimits
from cutout_server.imaging.video_file import VideoFile
from videos import RATE, video

SIZE = (48, 64)
COUNT = 11
FRAME_BYTES = SIZE[0] * SIZE[1] * 3 // 2  # Decoded.
LIMITS = VideoLimits(max_pixels=64 * 64, max_frames=20, max_s=5.0)
FORMATS = [
    ("mp4", "libx264", "h264", "video/mp4"),
    ("mov", "libx264", "h264", "video/quicktime"),
    ("matroska", "libx265", "hevc", "video/x-matroska"),
    ("webm", "libvpx-vp9", "vp9", "video/webm"),
    ("webm", "libvpx", "vp8", "video/webm"),
    ("mp4", "libsvtav1", "av1", "video/mp4"),
    ("avi", "mpeg4", "mpeg4", "video/x-msvideo"),
    ("avi", "libx264", "h264", "video/x-msvideo"),
    ("avi", "mjpeg", "mjpeg", "video/x-msvideo"),
]


def frame(index: int) -> np.ndarray:
    """A bright square that moves over a slope."""
    pixels = np.zeros((*SIZE, 3), np.uint8)
    pixels[:, :, 1] = np.arange(SIZE[1], dtype=np.uint8) * 3
    pixels[8 + 2 * index : 20 + 2 * index, 10:30] = (250, 200, 20 * index)
    return pixels


FRAMES = [frame(index) for index in range(COUNT)]
File = Callable[[bytes], Path]


@pytest.fixture
def file(tmp_path: Path) -> File:
    """Writes a file."""

    def write(data: bytes) -> Path:
        path = tmp_path / "video"
        path.write_bytes(data)
        return path

    return write


def described(path: Path, limits: VideoLimits = LIMITS) -> module.VideoHeader:
    with VideoFile(path, limits, "x") as opened:
        return opened.describe()


def read(
    path: Path, wanted: list[int], size: tuple[int, int] = SIZE, limits: VideoLimits = LIMITS
) -> dict[int, np.ndarray]:
    with VideoFile(path, limits, "x") as opened:
        found = list(opened.frames(wanted, size))
    assert [each.number for each in found] == [number for number in wanted if number in {each.number for each in found}]
    return {each.number: each.pixels for each in found}


def by_opencv(path: Path) -> list[np.ndarray]:
    """All frames, upright, as another library has them."""
    capture = cv2.VideoCapture(str(path))
    found = []
    while capture.grab():
        found.append(cv2.cvtColor(capture.retrieve()[1], cv2.COLOR_BGR2RGB))
    capture.release()
    return found


def refusal(path: Path, limits: VideoLimits = LIMITS) -> tuple[str, str]:
    with pytest.raises(InvalidRequestError) as refused:
        described(path, limits)
    assert refused.value.violations[0].field == "x"
    return refused.value.reason, refused.value.violations[0].description


@pytest.mark.parametrize(("container", "codec", "name", "content_type"), FORMATS)
def test_every_format_is_read_both_ways(file: File, container: str, codec: str, name: str, content_type: str):
    """Forward, backward with groups in pieces, and some alone: the pixels that OpenCV reads from start to end."""
    path = file(video(FRAMES, container=container, codec=codec))
    header = described(path)
    assert (header.content_type, header.codec, header.frames) == (content_type, name, COUNT)
    assert (header.width, header.height, header.rotation_degrees, header.missing_frames) == (*SIZE[::-1], 0, 0)
    assert header.duration_s == pytest.approx(COUNT / RATE)
    assert header.rate == pytest.approx(RATE)
    expected = by_opencv(path)
    assert len(expected) == COUNT
    everything = list(range(COUNT))
    for wanted in (everything, everything[::-1], [1, 2, 9], [9, 6, 5, 0], [7]):
        found = read(path, wanted, limits=replace(LIMITS, held_bytes=3 * FRAME_BYTES))
        assert list(found) == wanted
        for number, pixels in found.items():
            assert np.array_equal(pixels, expected[number])


def test_the_way_back_decodes_each_frame_so_often_at_most(file: File):
    """A group that would be decoded in more than 32 pieces is refused before any of it is decoded."""
    path = file(video([FRAMES[0]] * 67, group=1000))
    limits, decoded = VideoLimits(64 * 64, 100, 10.0, held_bytes=2 * FRAME_BYTES), list[None]()
    with VideoFile(path, limits, "x", lambda: decoded.append(None)) as opened:
        for refused in (range(66, -1, -1), range(66, 1, -1)):
            with pytest.raises(InvalidRequestError, match=r"at most 64 frames .* frame 0 there are 6[75];") as error:
                opened.check(refused)
            assert (error.value.reason, error.value.violations[0].field) == ("VIDEO_TOO_FEW_KEYFRAMES", "direction")
        opened.check(range(67))
        opened.check(range(66, -1, -2))
        assert not decoded
        opened.check(range(63, -1, -1))
        assert [each.number for each in opened.frames(range(63, -1, -1), SIZE)] == list(range(63, -1, -1))
    assert 32 * 64 / 2 < len(decoded) <= 32 * 67


def test_numbers_follow_times_that_vary(file: File):
    """In the order in which frames are shown, with the times that the file has."""
    times = [0, 100, 130, 500, 520, 900]
    path = file(video(FRAMES[:6], container="matroska", times=times))
    assert described(path).frames == 6
    with VideoFile(path, LIMITS, "x") as opened:
        assert [each.seconds for each in opened.frames(range(6), SIZE)] == pytest.approx([t / 1000 for t in times])


@pytest.mark.parametrize("rotation", [90, -90, 180])
def test_frames_are_turned_upright(file: File, rotation: int):
    """By the rotation that the file says, as OpenCV turns them."""
    path = file(video(FRAMES[:2], rotation=rotation))
    header = described(path)
    height, width = SIZE if rotation == 180 else SIZE[::-1]
    assert (header.height, header.width, header.rotation_degrees) == (height, width, rotation % 360)
    found = read(path, [0, 1], (height, width))
    for number, expected in enumerate(by_opencv(path)):
        assert np.array_equal(found[number], expected)


@pytest.mark.parametrize(
    ("made", "kept"),
    [
        ({"movflags": "faststart"}, 0.8),
        ({"container": "webm", "codec": "libvpx-vp9"}, 0.8),
        ({"container": "avi", "codec": "mjpeg"}, 0.7),
    ],
)
def test_a_file_that_was_cut_off_is_read_as_far_as_it_goes(file: File, made: dict[str, str], kept: float):
    """And what its header promises beyond that is counted."""
    data = video(FRAMES, **made)
    path = file(data[: int(len(data) * kept)])
    header = described(path)
    assert 0 < header.frames < COUNT
    assert header.frames + header.missing_frames == COUNT
    assert list(read(path, list(range(header.frames)))) == list(range(header.frames))


@pytest.mark.parametrize(
    ("container", "start", "options", "frames"),
    [
        ("matroska", 3000, {}, COUNT),
        ("mp4", 3000, {}, COUNT),
        ("mp4", -400, {"use_editlist": "1", "avoid_negative_ts": "disabled"}, COUNT - 4),
    ],
)
def test_a_whole_file_misses_nothing(file: File, container: str, start: int, options: dict[str, str], frames: int):
    """Wherever its times begin, and if an edit list leaves frames out on purpose."""
    times = [start + 100 * index for index in range(COUNT)]
    header = described(file(video(FRAMES, container=container, times=times, **options)))
    assert (header.frames, header.missing_frames) == (frames, 0)
    assert header.duration_s == pytest.approx(frames / 10, abs=0.1)


def test_a_damaged_frame_is_passed_over(file: File):
    """Others are read."""
    data = bytearray(video(FRAMES, container="avi", codec="mjpeg"))
    start = [at for at in range(data.index(b"movi"), len(data)) if data[at : at + 4] == b"00dc"][5] + 8
    size = int.from_bytes(data[start - 4 : start], "little")
    data[start : start + size] = bytes(size)
    path = file(bytes(data))
    assert described(path).frames == COUNT
    assert list(read(path, list(range(COUNT)))) == [number for number in range(COUNT) if number != 5]


@pytest.mark.parametrize(("container", "codec"), [("webm", "libvpx"), ("mp4", "libx264")])
def test_a_damaged_keyframe_is_passed_over_once(file: File, container: str, codec: str):
    """On the way to frames far behind it, with every frame decoded once at most."""
    whole = video(
        [np.full((*SIZE, 3), 3 * index, np.uint8) for index in range(70)], container=container, codec=codec, group=30
    )
    path = file(whole)
    with av.open(path) as opened:
        second = [packet for packet in opened.demux(video=0) if packet.size and packet.is_keyframe][1]
        start, size = second.pos + 8, second.size - 8
    path = file(whole[:start] + bytes(size) + whole[start + size :])
    decoded: list[None] = []
    with VideoFile(path, VideoLimits(64 * 64, 100, 10.0), "x", lambda: decoded.append(None)) as opened:
        found = [each.number for each in opened.frames([0, 32, 33, 65], SIZE)]
    assert {0, 65} <= set(found)
    assert len(decoded) <= 70


@pytest.mark.parametrize(
    ("limits", "said"),
    [
        ({"max_pixels": 3000}, "at most 3,000 pixels a frame, got 64 x 48"),
        ({"max_frames": 10}, "at most 10 frames, got"),
        ({"max_s": 1.0}, "at most 1 s, got 1.1"),
    ],
)
@pytest.mark.parametrize("container", ["mp4", "matroska"])
def test_what_is_too_large_is_refused(file: File, container: str, limits: dict[str, float], said: str):
    """With the bound and what it has, before anything is decoded."""
    reason, message = refusal(file(video(FRAMES, container=container)), VideoLimits(**vars(LIMITS) | limits))
    assert reason == "VIDEO_TOO_LARGE"
    assert said in message


def test_what_is_no_video_is_refused(file: File):
    """By what is wrong with it."""
    whole = video(FRAMES)
    assert "it is empty" in refusal(file(b""))[1]
    assert "begins with 68 65" in refusal(file(b"hello, here is no video"))[1]
    assert "cut off" in refusal(file(whole[: len(whole) // 2]))[1]
    assert refusal(file(whole[:40] + bytes(len(whole) - 40)))[0] == "VIDEO_UNREADABLE"
    assert refusal(file(video(FRAMES, container="matroska", codec="ffv1")))[0] == "VIDEO_UNSUPPORTED"
    playlist = b"#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n"
    assert refusal(file(playlist))[0] == "VIDEO_UNREADABLE"
