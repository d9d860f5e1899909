"""`cutout track`: a video in, what becomes of its objects out."""

import argparse
import itertools
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from cutout_client.cli import connection, console, prompts
from cutout_client.client import Client
from cutout_client.tracked import Frame, TrackedFrame, TrackPrompt
from cutout_client.tracks import Tracks
from cutout_client.video import Video, VideoWriter


def add_to(commands: Any) -> None:
    """Adds the command."""
    parser = commands.add_parser("track", help="follow objects through a video")
    parser.add_argument("video", type=Path, nargs="?", help="MP4, MOV, MKV, WebM or AVI")
    parser.add_argument("--camera", type=int, metavar="N", help="instead of a file: the N-th camera, from 0")
    what = parser.add_argument_group("what to follow", "in the first frame; several of these go together")
    several: Any = {"nargs": "+", "action": "extend"}
    what.add_argument("--text", **several, metavar="PHRASE", help="what the phrases name")
    what.add_argument("--box", **several, type=prompts.box, metavar="X0,Y0,X1,Y1", help="the object in each box")
    what.add_argument("--point", **several, type=prompts.point, metavar="X,Y[,0]", help="one object by clicks")
    how = parser.add_argument_group("how")
    how.add_argument("--tracker", "--model", default="", metavar="NAME", help="model that follows")
    how.add_argument("--start", type=int, default=0, metavar="FRAME", help="the first one (default: %(default)s)")
    how.add_argument("--end", type=int, metavar="FRAME", help="the one behind the last (default: all)")
    how.add_argument("--every", type=int, default=1, metavar="N", help="each N-th frame (default: all)")
    how.add_argument("--newest", action="store_true", help="drop frames that come too fast, of a camera")
    how.add_argument("--non-overlapping", action="store_true", help="each pixel is one object's at most")
    files = parser.add_argument_group("output")
    files.add_argument(
        "--out", type=Path, metavar="FOLDER", help="label maps as PNG (DAVIS) and tracks.json (YouTube-VOS)"
    )
    files.add_argument("--overlay", type=Path, metavar="FILE.mp4", help="the video with the objects drawn on it")
    files.add_argument("--json", action="store_true", help="print one JSON document a frame")
    files.add_argument("--quiet", action="store_true", help="print errors alone")
    connection.add_to(parser)
    parser.set_defaults(run=run, takes_others=False)


def run(args: argparse.Namespace) -> int:
    """Follows the objects and writes each frame as soon as it is there."""
    if (args.video is None) == (args.camera is None):
        args.parser.error("expected either a video or --camera")
    if not (args.text or args.box or args.point):
        args.parser.error("say what to follow: --text, --box or --point")
    if not (args.out or args.overlay or args.json):
        args.parser.error("say what to write: --out, --overlay or --json")
    source = args.video if args.camera is None else args.camera
    with ExitStack() as stack:
        client = stack.enter_context(connection.connect(args))
        video = stack.enter_context(Video(source, start=args.start, end=args.end, every=args.every))
        frames = iter(video)
        first = next(frames, None)
        if first is None:
            console.write_error(f"{source}: there is no frame that can be read")
            return 1
        said, names = _prompts(client, first, args)
        if not said:
            console.write_error(f"nothing in the first frame is {' or '.join(args.text)}")
            return 1
        progress = stack.enter_context(_progress(args))
        task = progress.add_task("following", total=len(video) or None)
        tracks = Tracks(args.out, names) if args.out else None
        writer = stack.enter_context(VideoWriter(args.overlay, video.info.rate / args.every)) if args.overlay else None
        count = 0
        for found in _followed(client, itertools.chain([first], frames), said, args):
            count += 1
            _write(found, tracks, writer, names, args)
            progress.update(task, completed=count)
        wrote = [str(path) for path in (tracks and tracks.save(), args.overlay) if path]
    if not (args.json or args.quiet):
        where = f", files: {', '.join(wrote)}" if wrote else ""
        console.stdout().print(f"objects: {len(said)}, frames: {count}{where}", soft_wrap=True)
    return 0


def _prompts(client: Client, first: Frame, args: argparse.Namespace) -> tuple[dict[int, TrackPrompt], dict[int, str]]:
    """What is said in the first frame, and what its objects are called."""
    said = [TrackPrompt(box=box) for box in args.box or ()]
    names = [f"box {number}" for number in range(1, len(said) + 1)]
    if args.point:
        said.append(TrackPrompt(points=args.point))
        names.append("clicks")
    if args.text:
        for each in client.segment_text(first.image, args.text):
            said.append(TrackPrompt(mask=np.array(each.mask)))
            names.append(each.label)
    return dict(enumerate(said, 1)), dict(enumerate(names, 1))


def _followed(
    client: Client, frames: Iterable[Frame], said: dict[int, TrackPrompt], args: argparse.Namespace
) -> Iterator[TrackedFrame]:
    with client.live(
        frames,
        prompts=said,
        tracker=args.tracker,
        newest=args.newest,
        non_overlapping=args.non_overlapping,
    ) as live:
        yield from live


def _write(
    found: TrackedFrame,
    tracks: Tracks | None,
    writer: VideoWriter | None,
    names: dict[int, str],
    args: argparse.Namespace,
) -> None:
    if tracks is not None:
        tracks.add(found)
    if writer is not None:
        writer.write(np.asarray(found.overlay()))
    if args.json:
        objects = [
            {
                "id": each.object_id,
                "name": names.get(each.object_id, ""),
                "present": each.present,
                "presence": each.presence,
                "box": each.box,
                "area": each.area,
            }
            for each in found
        ]
        console.write_json(
            {"frame": found.index, "seconds": found.timestamp_s, "objects": objects, "dropped": found.dropped}
        )


def _progress(args: argparse.Namespace) -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    terminal = console.stderr()
    return Progress(*columns, console=terminal, transient=True, disable=args.quiet or not terminal.is_terminal)
