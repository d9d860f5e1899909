"""The flags that say what to look for."""

import argparse
from collections.abc import Sequence
from typing import Any

from cutout_client.cli.question import Question
from cutout_client.prompts import Exemplar, Options, Prompt, Strategy, Tiling
from cutout_client.tasks import OPTIONS

VISUAL = "visual"  # The phrase that means what the exemplars show and no more.
EVERYTHING = "(--everything)"


def add_to(parser: argparse.ArgumentParser) -> None:
    """Adds the flags."""
    what = parser.add_argument_group("what to cut out", "one of these; one --box may go with --point")
    several: Any = {"nargs": "+", "action": "extend"}
    what.add_argument("--text", **several, metavar="PHRASE", help="what the phrases name")
    what.add_argument("--box", **several, type=box, metavar="X0,Y0,X1,Y1", help="the object in each box, in pixels")
    what.add_argument(
        "--point", **several, type=point, metavar="X,Y[,0]", help="one object by clicks; 0: outside of it"
    )
    what.add_argument("--everything", action="store_true", help="everything that looks like an object")
    examples: Any = several | {"dest": "exemplars", "metavar": "X0,Y0,X1,Y1"}
    what.add_argument("--exemplar", **examples, type=box, help="what is like these examples (with --text or alone)")
    what.add_argument("--not-like", **examples, type=_counterexample, help="and not like these")
    how = parser.add_argument_group("how")
    how.add_argument("--segmenter", "--model", default="", metavar="NAME", help="model that cuts out")
    how.add_argument("--detector", default="", metavar="NAME", help="model that finds what --text names")
    how.add_argument("--rewrite", action="store_true", help="have a language model turn sentences into nouns (--text)")
    how.add_argument("--box-threshold", type=float, metavar="0..1", help="least score of a find (--text)")
    how.add_argument("--text-threshold", type=float, metavar="0..1", help="least match of a phrase (--text)")
    how.add_argument("--box-nms-iou", type=float, metavar="0..1", help="most overlap of boxes (--text, --everything)")
    how.add_argument("--points-per-side", type=int, metavar="1..64", help="how fine to look (--everything)")
    how.add_argument("--predicted-iou-threshold", type=float, metavar="0..1", help=EVERYTHING)
    how.add_argument("--stability-threshold", type=float, metavar="0..1", help=EVERYTHING)
    how.add_argument("--stability-offset", type=float, metavar="LOGITS", help=EVERYTHING)
    how.add_argument("--crop-layers", type=int, metavar="0..3", help="look again in 4, 16, 64 crops (--everything)")
    how.add_argument("--crop-overlap", type=float, metavar="0..0.9", help=EVERYTHING)
    how.add_argument("--crop-points-downscale", type=int, metavar="1..8", help=EVERYTHING)
    how.add_argument("--crop-nms-iou", type=float, metavar="0..1", help=EVERYTHING)
    add_mask_flags(how)


def add_mask_flags(how: Any) -> None:
    """Adds the flags that say what to make of the masks."""
    how.add_argument("--multimask", action="store_true", help="three candidates for each prompt")
    how.add_argument("--strategy", choices=Strategy.__args__, help="which masks to keep")  # type: ignore[attr-defined]
    how.add_argument("--mask-threshold", type=float, metavar="LOGIT", help="what is above it is inside")
    how.add_argument("--min-area", type=int, metavar="PIXELS", help="leave smaller objects out")
    how.add_argument("--max-hole-area", type=int, metavar="PIXELS", help="fill holes up to this size")
    how.add_argument("--min-part-area", type=int, metavar="PIXELS", help="remove smaller parts of a mask")
    how.add_argument("--nms-iou", type=float, metavar="0..1", help="leave out what overlaps a better one by more")
    how.add_argument("--max-objects", type=int, metavar="N", help="the best N alone")
    how.add_argument("--polygon-tolerance", type=float, metavar="PIXELS", help="fewer vertices, this far off at most")
    how.add_argument("--polygon-max-vertices", type=int, metavar="N", help="at most so many in an object's polygons")
    how.add_argument(
        "--tile",
        dest="tiling",
        type=_tiling,
        nargs="?",
        const=Tiling(),
        metavar="PIXELS[,OVERLAP]",
        help="look at tiles of a large picture too, of this size (default 1024) and overlap (default 0.25)",
    )


def mask_options(args: argparse.Namespace, *, outlines: bool) -> dict[str, Any]:
    """What the flags of `add_mask_flags` say.

    Args:
        args: The flags.
        outlines: Polygons are wanted, which come on request.
    """
    given = {name: getattr(args, name, None) for name in Options.__annotations__}
    if not outlines and (unused := [name for name in given if name.startswith("polygon_") and given[name]]):
        args.parser.error(f"{', '.join(map(_flag, unused))} needs a --format with polygons")
    return given | {"mask_formats": ["rle", "polygons"] if outlines else ["rle"]}


def question(args: argparse.Namespace, *, outlines: bool) -> Question:
    """What the flags ask of each picture.

    Args:
        args: The flags; wrong ones end the program with its usage.
        outlines: See `mask_options`.
    """
    kind = _kind(args)
    values = {name: getattr(args, name, None) for names in OPTIONS.values() for name in names}
    given = {name for name, value in values.items() if value is not None and value is not False}
    useless = sorted(given - OPTIONS[kind]) + (["detector"] if args.detector and kind != "phrases" else [])
    if useless:
        args.parser.error(f"{', '.join(_flag(name) for name in useless)} has no use with these prompts")
    more = {name: getattr(args, name) for name in OPTIONS[kind]}
    options: Any = mask_options(args, outlines=outlines) | more | {"segmenter": args.segmenter}
    match kind:
        case "phrases":
            return Question("segment_text", (args.text or [VISUAL],), options | {"detector": args.detector})
        case "boxes":
            return Question("segment_box", (args.box,), options)
        case "prompts":
            prompt = Prompt(points=args.point, box=args.box[0] if args.box else None)
            return Question("segment_points", (prompt,), options)
    return Question("segment_everything", (), options)


def _kind(args: argparse.Namespace) -> str:
    given = [name for name in ("text", "box", "point", "everything") if getattr(args, name)]
    if not given and args.exemplars:
        return "phrases"
    if not given:
        args.parser.error("say what to cut out: --text, --exemplar, --box, --point or --everything")
    if given == ["box", "point"]:
        if len(args.box) > 1:
            args.parser.error("--point describes one object: give it one --box at most")
        return "prompts"
    if len(given) > 1:
        args.parser.error(f"{' and '.join(_flag(name) for name in given)} cannot go together")
    return {"text": "phrases", "box": "boxes", "point": "prompts"}.get(given[0], "everything")


def _flag(name: str) -> str:
    return "--exemplar" if name == "exemplars" else "--" + name.replace("_", "-")


def box(text: str) -> tuple[float, ...]:
    """Reads a flag's x_min, y_min, x_max, y_max."""
    return _numbers(text, (4,), "x_min,y_min,x_max,y_max")


def spot(text: str) -> tuple[float, ...]:
    """Reads a flag's x, y."""
    return _numbers(text, (2,), "x,y")


def _tiling(text: str) -> Tiling:
    size, *overlap = _numbers(text, (1, 2), "pixels or pixels,overlap")
    if size < 1 or size % 1:
        raise argparse.ArgumentTypeError(f"expected whole pixels, got {text!r}")
    return Tiling(int(size), *overlap)


def _counterexample(text: str) -> Exemplar:
    return Exemplar(box(text), negative=True)


def point(text: str) -> tuple[float, ...]:
    """Reads a flag's x, y and perhaps label."""
    return _numbers(text, (2, 3), "x,y or x,y,label")


def _numbers(text: str, lengths: Sequence[int], expected: str) -> tuple[float, ...]:
    try:
        numbers = tuple(float(part) for part in text.split(","))
    except ValueError:
        numbers = ()
    if len(numbers) not in lengths:
        raise argparse.ArgumentTypeError(f"expected {expected}, got {text.strip()!r}")
    return numbers
