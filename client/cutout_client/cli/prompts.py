"""The flags that say what to look for."""

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from cutout_client.client import Client
from cutout_client.prompts import Options, Prompt, Strategy
from cutout_client.results import Segmentation
from cutout_client.tasks import THRESHOLDS

Ask = Callable[[Client, Path], Segmentation]


def add_to(parser: argparse.ArgumentParser) -> None:
    """Adds the flags."""
    what = parser.add_argument_group("what to cut out", "one of these; one --box may go with --point")
    what.add_argument("--text", nargs="+", metavar="PHRASE", help="what the phrases name")
    what.add_argument("--box", nargs="+", type=_box, metavar="X0,Y0,X1,Y1", help="the object in each box, in pixels")
    what.add_argument(
        "--point", nargs="+", type=_point, metavar="X,Y[,0]", help="one object, by clicks; 0: outside of it"
    )
    what.add_argument("--everything", action="store_true", help="everything that looks like an object")
    how = parser.add_argument_group("how")
    how.add_argument("--segmenter", "--model", default="", metavar="NAME", help="model that cuts out")
    how.add_argument("--detector", default="", metavar="NAME", help="model that finds what --text names")
    how.add_argument("--box-threshold", type=float, metavar="0..1", help="least score of a find (--text)")
    how.add_argument("--text-threshold", type=float, metavar="0..1", help="least match of a phrase (--text)")
    how.add_argument("--points-per-side", type=int, metavar="1..64", help="how fine to look (--everything)")
    how.add_argument("--predicted-iou-threshold", type=float, metavar="0..1", help="(--everything)")
    how.add_argument("--stability-threshold", type=float, metavar="0..1", help="(--everything)")
    how.add_argument("--multimask", action="store_true", help="three candidates for each prompt")
    how.add_argument("--strategy", choices=Strategy.__args__, help="which masks to keep")  # type: ignore[attr-defined]
    how.add_argument("--mask-threshold", type=float, metavar="LOGIT", help="what is above it is inside")
    how.add_argument("--min-area", type=int, metavar="PIXELS", help="leave smaller objects out")
    how.add_argument("--max-hole-area", type=int, metavar="PIXELS", help="fill holes up to this size")
    how.add_argument("--min-part-area", type=int, metavar="PIXELS", help="remove smaller parts of a mask")
    how.add_argument("--nms-iou", type=float, metavar="0..1", help="leave out what overlaps a better one by more")
    how.add_argument("--max-objects", type=int, metavar="N", help="the best N alone")


def asker(args: argparse.Namespace, *, outlines: bool) -> Ask:
    """What the flags ask of each picture.

    Args:
        args: The flags; wrong ones end the program with its usage.
        outlines: Polygons are wanted, which come on request.
    """
    kind = _kind(args)
    useless = [name for name, user in THRESHOLDS.items() if getattr(args, name) is not None and user != kind]
    useless += ["detector"] if args.detector and kind != "phrases" else []
    if useless:
        args.parser.error(f"{', '.join(_flag(name) for name in useless)} has no use with these prompts")
    given = {name: getattr(args, name, None) for name in Options.__annotations__}
    given |= {"mask_formats": ["rle", "polygons"] if outlines else ["rle"]}
    more = {name: getattr(args, name) for name, user in THRESHOLDS.items() if user == kind}
    options: Any = given | more | {"segmenter": args.segmenter}
    match kind:
        case "phrases":
            return lambda client, picture: client.segment_text(picture, args.text, detector=args.detector, **options)
        case "boxes":
            return lambda client, picture: client.segment_box(picture, args.box, **options)
        case "prompts":
            prompt = Prompt(points=args.point, box=args.box[0] if args.box else None)
            return lambda client, picture: client.segment_points(picture, prompt, **options)
    return lambda client, picture: client.segment_everything(picture, **options)


def _kind(args: argparse.Namespace) -> str:
    given = [name for name in ("text", "box", "point", "everything") if getattr(args, name)]
    if not given:
        args.parser.error("say what to cut out: --text, --box, --point or --everything")
    if given == ["box", "point"]:
        if len(args.box) > 1:
            args.parser.error("--point describes one object: give it one --box at most")
        return "prompts"
    if len(given) > 1:
        args.parser.error(f"{' and '.join(_flag(name) for name in given)} cannot go together")
    return {"text": "phrases", "box": "boxes", "point": "prompts"}.get(given[0], "everything")


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def _box(text: str) -> tuple[float, ...]:
    return _numbers(text, (4,), "x_min,y_min,x_max,y_max")


def _point(text: str) -> tuple[float, ...]:
    return _numbers(text, (2, 3), "x,y or x,y,label")


def _numbers(text: str, lengths: Sequence[int], expected: str) -> tuple[float, ...]:
    try:
        numbers = tuple(float(part) for part in text.split(","))
    except ValueError:
        numbers = ()
    if len(numbers) not in lengths:
        raise argparse.ArgumentTypeError(f"expected {expected}, got {text!r}")
    return numbers
