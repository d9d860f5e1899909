"""The two ways in which `cutout track` follows: frames decoded here and sent, or the file sent and decoded there."""

import argparse
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace

import grpc

from cutout_client.cli.unfollowed import Unfollowed
from cutout_client.client import Client
from cutout_client.errors import CutoutError
from cutout_client.images import read_picture
from cutout_client.live import LiveStream
from cutout_client.shown import Shown
from cutout_client.stored import StoredVideo, VideoTrackStream
from cutout_client.tracked import TrackedFrame, TrackPrompt
from cutout_client.video import Video

_LEAST_BYTES_A_SECOND = 1_000_000  # A large file is given so much more time than other calls.
_NAMED = 10  # Of frames that could not be decoded.


@dataclass(frozen=True)
class Followed:
    """Objects on their way through a video.

    Attributes:
        frames: With their objects, as they come.
        names: What objects are called. Those that words find on the server are there with the first frame.
        rate: Frames a second.
        total: How many frames there should be; 0 when nobody knows.
        resumed: How often they went on at another server so far.
        unread: What is to be said of frames that could not be read, behind the last one.
    """

    frames: Iterator[TrackedFrame]
    names: Mapping[int, str]
    rate: float
    total: int
    resumed: Callable[[], int]
    unread: Callable[[], Iterator[str]]


@contextmanager
def here(client: Client, args: argparse.Namespace) -> Iterator[Followed]:
    """Decodes a file or a camera's frames here.

    Raises:
        ValueError: Nothing can be read.
    """
    source = args.video if args.camera is None else args.camera
    with Video(source, start=args.start, end=args.end, every=args.every) as video:
        frames = iter(video)
        first = next(frames, None)
        if first is None:
            raise ValueError(f"{source}: there is no frame that can be read")
        said, names = _said(args)
        with client.live(
            itertools.chain([first], frames),
            prompts=said,
            phrases=args.text or (),
            phrases_every=args.text_every,
            tracker=args.tracker,
            newest=args.newest,
            non_overlapping=args.non_overlapping,
        ) as live:
            yield Followed(
                _named(live, names),
                names,
                video.info.rate / args.every,
                len(video),
                lambda: live.resumed,
                lambda: _unread(video.missing, ()),
            )


@contextmanager
def on_server(client: Client, args: argparse.Namespace) -> Iterator[Followed]:
    """Sends the file, which the server forgets at the end.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The server stores no videos, or reads none.
    """
    limit_s = args.timeout + args.video.stat().st_size / _LEAST_BYTES_A_SECOND
    try:
        video = client.upload_video(args.video, timeout_s=limit_s)
    except CutoutError as error:
        if error.reason == "PACKAGE_MISSING" or error.code is grpc.StatusCode.UNIMPLEMENTED:
            raise ValueError(f"{error}; without --on-server frames are decoded here") from error
        raise
    end = min(args.end or video.frame_count, video.frame_count)
    said, names = _said(args)
    try:
        with client.track_video(
            video,
            prompts={args.start: said} if said else None,
            phrases={args.start: args.text} if args.text else None,
            start=args.start,
            end=max(end, args.start + 1),  # A start behind the last frame is refused there, by its name.
            every=args.every,
            phrases_every=args.text_every,
            tracker=args.tracker,
            non_overlapping=args.non_overlapping,
        ) as stream:
            total = len(range(args.start, end, args.every))
            missing = video.missing_frames if args.end is None else 0
            yield Followed(
                _received(stream, video, names, args),
                names,
                video.frame_rate / args.every,
                total,
                lambda: 0,
                lambda: _unread(missing, stream.unreadable_frames),
            )
    finally:
        with suppress(CutoutError):  # Unused for a while it is forgotten anyway.
            client.delete_video(video)


def _named(live: LiveStream, names: dict[int, str]) -> Iterator[TrackedFrame]:
    """Frames as they come, behind what is found in them."""
    for found in live:
        names.update(live.names)
        yield found


def _received(
    stream: VideoTrackStream, stored: StoredVideo, names: dict[int, str], args: argparse.Namespace
) -> Iterator[TrackedFrame]:
    """Frames as they come; what is drawn on is decoded here, beside it."""
    if not args.overlay:
        for found in stream:
            names.update(stream.names)
            yield found
        return
    with Video(args.video) as video:
        shown = Shown(video, stored)
        for found in stream:
            names.update(stream.names)
            frame = shown.at(found)
            if frame is None:
                raise ValueError(f"{args.video}: frame {found.index} cannot be read here, so nothing is drawn on it")
            yield replace(found, picture=read_picture(frame.image))


def _unread(missing: int, unreadable: Sequence[int]) -> Iterator[str]:
    if missing:
        frames = "frame that its header promises is" if missing == 1 else "frames that its header promises are"
        yield f"the file is cut off or damaged: some {missing} {frames} not there"
    if unreadable:
        some = ", ".join(map(str, unreadable[:_NAMED])) + (" and others" if len(unreadable) > _NAMED else "")
        yield f"{'frame' if len(unreadable) == 1 else 'frames'} {some} could not be decoded"


def nothing_followed(phrases: Sequence[str], unfollowed: Unfollowed) -> ValueError:
    """What is said when words begin nothing."""
    return ValueError("; ".join(unfollowed.lines()) or f"nothing in the first frame is {' or '.join(phrases)}")


def _said(args: argparse.Namespace) -> tuple[dict[int, TrackPrompt], dict[int, str]]:
    """What is said in the first frame without words, and what its objects are called."""
    said = [TrackPrompt(box=box) for box in args.box or ()]
    names = [f"box {number}" for number in range(1, len(said) + 1)]
    if args.point:
        said.append(TrackPrompt(points=args.point))
        names.append("clicks")
    return dict(enumerate(said, 1)), dict(enumerate(names, 1))
