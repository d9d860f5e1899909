"""`cutout bench`: how fast a running server answers so many callers at once."""

import argparse
import importlib
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import PIL.ImageDraw
from cutout_common.distribution import install_hint
from numpy.typing import NDArray

from cutout_client.cli import connection, console, prompts
from cutout_client.cli.load import PERCENTILES, Level, Pictures, measure
from cutout_client.cli.work import serves
from cutout_client.errors import OverloadedError
from cutout_client.images import read_picture

SIZE = (640, 480)


def add_to(commands: Any) -> None:
    """Adds the command."""
    parser = commands.add_parser(
        "bench",
        help="measure how fast a running server answers",
        description="Has more and more callers ask a running server about a picture, each again as soon as it has an "
        "answer, and measures latencies, answers a second, the stages in the server, and refusals, after which callers "
        "wait as long as the server says.",
    )
    parser.add_argument(
        "image", nargs="?", type=Path, metavar="IMAGE", help=f"default: one of {SIZE[0]} x {SIZE[1]} pixels"
    )
    load = parser.add_argument_group("load")
    load.add_argument(
        "--callers", type=_levels, default=(1, 2, 4, 8), metavar="N,N...", help="at once (default: 1,2,4,8)"
    )
    load.add_argument("--seconds", type=float, default=5.0, metavar="S", help="for each (default: %(default)g)")
    load.add_argument(
        "--same",
        action="store_true",
        help="ask about the same picture, of which the server knows most (default: each time it has another corner)",
    )
    prompts.add_to(parser)
    files = parser.add_argument_group("output")
    files.add_argument("--json", action="store_true", help="print JSON instead of tables")
    files.add_argument("--plot", type=Path, metavar="FILE", help="draw it, as PNG, SVG or PDF by the name's ending")
    connection.add_to(parser)
    parser.set_defaults(run=run, takes_others=False)


def run(args: argparse.Namespace) -> int:
    """Measures each number of callers; 1 when one had no answer at all."""
    plot = _plotter() if args.plot else None
    pixels = _made() if args.image is None else read_picture(args.image).rgb()
    if not any((args.text, args.box, args.point, args.everything, args.exemplars)):
        height, width = pixels.shape[:2]
        args.box = [(width / 4, height / 4, 3 * width / 4, 3 * height / 4)]
    question = prompts.question(args, outlines=False)
    pictures = Pictures(pixels, same=args.same)
    args.retries, args.jobs = 0, max(args.callers)  # a refusal is to be seen
    levels: list[Level] = []
    with connection.connect(args) as client:
        serves(client)
        models: tuple[str, ...] = ()
        with suppress(OverloadedError):  # others are here, too
            models = question.ask(client, next(pictures)).models  # which loads them
        try:
            for callers in args.callers:
                levels += [measure(client, question, pictures, callers, args.seconds)]
        except KeyboardInterrupt:
            console.write_warning("stopped; this is what was measured before")
    if args.json:
        console.write_json({"models": models, "levels": [_described(level) for level in levels]})
    else:
        console.stdout().print(f"{', '.join(models)} at {args.server}, {pixels.shape[1]} x {pixels.shape[0]} pixels\n")
        _print(levels)
    if plot and levels:
        plot.draw(levels, args.plot, f"{', '.join(models)}, {question.method}")
    return int(len(levels) < len(args.callers) or not all(level.latencies_ms for level in levels))


def _levels(text: str) -> tuple[int, ...]:
    try:
        levels = tuple(int(part) for part in text.split(","))
    except ValueError:
        levels = ()
    if not levels or min(levels) < 1:
        raise argparse.ArgumentTypeError(f"expected numbers of callers such as 1,4,16, got {text!r}")
    return levels


def _plotter() -> Any:
    try:
        return importlib.import_module("cutout_client.cli.plot")
    except ImportError as error:
        raise ValueError(f"--plot needs the package {error.name}: {install_hint('bench')}") from error


def _made() -> NDArray[np.uint8]:
    image = PIL.Image.new("RGB", SIZE, (70, 110, 80))
    PIL.ImageDraw.Draw(image).ellipse((180, 120, 440, 360), fill=(230, 180, 60))
    return np.asarray(image)


def _described(level: Level) -> dict[str, Any]:
    percentiles = {f"p{share}_ms": level.percentile(share) if level.latencies_ms else None for share in PERCENTILES}
    return {
        "callers": level.callers,
        "seconds": level.seconds,
        "answers": len(level.latencies_ms),
        "per_second": level.per_second,
        **percentiles,
        "stages_ms": level.stages_ms,
        "refusals": level.refusals,
    }


def _print(levels: Sequence[Level]) -> None:
    numbers = ("CALLERS", "ANSWERS", "PER S", *(f"P{share} MS" for share in PERCENTILES), "REFUSED")
    table = console.table(*numbers, "", right=numbers)
    for level in levels:
        latencies = (f"{level.percentile(share):.0f}" if level.latencies_ms else "-" for share in PERCENTILES)
        reasons = ", ".join(f"{reason} x{count}" for reason, count in level.refusals.items())
        refused = str(sum(level.refusals.values()))
        row = (
            str(level.callers),
            str(len(level.latencies_ms)),
            f"{level.per_second:.1f}",
            *latencies,
            refused,
            reasons,
        )
        table.add_row(*row)
    console.stdout().print(table)
    used = (
        [name for name in levels[0].stages_ms if any(level.stages_ms[name] >= 0.5 for level in levels)]
        if levels
        else []
    )
    means = ("CALLERS", *(name.removesuffix("_ms").upper() for name in used))
    stages = console.table(*means, right=means)
    for level in levels:
        stages.add_row(str(level.callers), *(f"{level.stages_ms[name]:.0f}" for name in used))
    console.stdout().print("\nMean milliseconds of each stage:")
    console.stdout().print(stages)
