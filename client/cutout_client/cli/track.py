"""`cutout track`: a video in, what becomes of its objects out."""

import argparse
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from cutout_client.cli import connection, console, following, prompts
from cutout_client.cli.stopping import INTERRUPTED
from cutout_client.cli.unfollowed import Unfollowed
from cutout_client.tracked import TrackedFrame
from cutout_client.tracks import Tracks
from cutout_client.video import VideoWriter


def add_to(commands: Any) -> None:
    """Adds the command."""
    parser = commands.add_parser("track", help="follow objects through a video")
    parser.add_argument("video", type=Path, nargs="?", help="MP4, MOV, MKV, WebM or AVI")
    parser.add_argument("--camera", type=int, metavar="N", help="instead of a file: the N-th camera, from 0")
    what = parser.add_argument_group("what to follow", "in the first frame; several of these go together")
    several: Any = {"nargs": "+", "action": "extend"}
    what.add_argument("--text", **several, metavar="PHRASE", help="what the phrases name")
    what.add_argument(
        "--text-every",
        type=int,
        default=0,
        metavar="N",
        help="look for --text again in each N-th frame",
    )
    what.add_argument("--box", **several, type=prompts.box, metavar="X0,Y0,X1,Y1", help="the object in each box")
    what.add_argument("--point", **several, type=prompts.point, metavar="X,Y[,0]", help="one object by clicks")
    how = parser.add_argument_group("how")
    how.add_argument("--tracker", "--model", default="", metavar="NAME", help="model that follows")
    how.add_argument("--start", type=int, default=0, metavar="FRAME", help="the first one (default: %(default)s)")
    how.add_argument("--end", type=int, metavar="FRAME", help="the one behind the last (default: all)")
    how.add_argument("--every", type=int, default=1, metavar="N", help="each N-th frame (default: all)")
    how.add_argument(
        "--on-server", action="store_true", help="send the file and decode it there, instead of its frames from here"
    )
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
    """Follows the objects and writes each frame as soon as it is there; what is written stays, whatever ends it."""
    _check(args)
    way = following.on_server if args.on_server else following.here
    with ExitStack() as stack:
        client = stack.enter_context(connection.connect(args))
        progress = stack.enter_context(_progress(args))
        task = progress.add_task("sending" if args.on_server else "looking", total=None)
        followed = stack.enter_context(way(client, args))
        progress.update(task, description="following", total=followed.total or None)
        tracks = Tracks(args.out, followed.names) if args.out else None
        writer = stack.enter_context(VideoWriter(args.overlay, followed.rate)) if args.overlay else None
        objects, count, resumed, is_whole = set[int](), 0, 0, False
        unfollowed = Unfollowed()
        try:
            for found in followed.frames:
                unfollowed.add(found.found)
                if not (count or len(found) or args.text_every):
                    raise following.nothing_followed(args.text, unfollowed)
                if followed.resumed() > resumed and not args.quiet:
                    console.write_warning(
                        f"the server was lost before frame {found.index} was answered; went on at another",
                        progress.console,
                    )
                resumed = followed.resumed()
                objects |= {each.object_id for each in found}
                count += 1
                _write(found, tracks, writer, followed.names, args)
                progress.update(task, completed=count)
            is_whole = True
        except KeyboardInterrupt:
            console.write_warning("stopped; what was written is there", progress.console)
        finally:
            saved = tracks.save() if tracks and count else None  # What was there before is not emptied.
            wrote = [str(path) for path in (saved, args.overlay) if path and count]
    for line in () if args.quiet else (*unfollowed.lines(), *(followed.unread() if is_whole else ())):
        console.write_warning(line)
    if not (args.json or args.quiet):
        where = f", files: {', '.join(wrote)}" if wrote else ""
        console.stdout().print(f"objects: {len(objects)}, frames: {count}{where}", soft_wrap=True)
    return 0 if is_whole else INTERRUPTED


def _check(args: argparse.Namespace) -> None:
    """Ends the program if flags do not go together."""
    if (args.video is None) == (args.camera is None):
        args.parser.error("expected either a video or --camera")
    if args.on_server and (args.video is None or args.newest):
        args.parser.error("--on-server goes with a video, and without --newest")
    if args.text_every and not (args.text and args.text_every > 0):
        args.parser.error("--text-every is at least 1, and goes with --text")
    if not (args.text or args.box or args.point):
        args.parser.error("say what to follow: --text, --box or --point")
    if not (args.out or args.overlay or args.json):
        args.parser.error("say what to write: --out, --overlay or --json")
    if args.start < 0 or args.every < 1 or (args.end is not None and args.end <= args.start):
        args.parser.error("expected 0 <= --start < --end, and --every of at least 1")


def _write(
    found: TrackedFrame,
    tracks: Tracks | None,
    writer: VideoWriter | None,
    names: Mapping[int, str],
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
