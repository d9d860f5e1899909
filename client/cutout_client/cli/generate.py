"""`cutout generate`: words in, pictures and what is in them out."""

import argparse
import re
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from cutout_client.cli import connection, console, prompts
from cutout_client.exports import outlined
from cutout_client.generation import GeneratedImage, GenerationProgress
from cutout_client.saving import FORMATS

SUFFIXES = {"image/png": ".png", "image/jpeg": ".jpg"}
HOW = ("negative_prompt", "width", "height", "steps", "guidance", "seed", "generator", "image_format")
CUT_OUT = ("phrases", "concepts", "everything")


def add_to(commands: Any) -> None:
    """Adds the command."""
    parser = commands.add_parser("generate", help="make pictures from words")
    parser.add_argument("prompts", nargs="+", metavar="WORDS", help="what a picture shows; one picture for each")
    how = parser.add_argument_group("how")
    how.add_argument("--negative", dest="negative_prompt", default="", metavar="WORDS", help="what none may show")
    how.add_argument("--width", type=int, metavar="PIXELS", help="a multiple of 8 (default: the generator's own)")
    how.add_argument("--height", type=int, metavar="PIXELS", help="likewise")
    how.add_argument("--steps", type=int, metavar="1..200", help="of denoising (default: 30)")
    how.add_argument("--guidance", type=float, metavar="1..30", help="how closely to follow the words (default: 7.5)")
    how.add_argument("--seed", type=int, metavar="N", help="the same one makes the same picture (default: random)")
    how.add_argument("--generator", "--model", default="", metavar="NAME", help="model that makes the pictures")
    then = parser.add_argument_group("what to cut out of each picture", "one of these, or nothing")
    several: Any = {"nargs": "+", "action": "extend"}
    then.add_argument("--text", **several, dest="phrases", metavar="PHRASE", help="what the phrases name")
    then.add_argument("--concept", **several, dest="concepts", metavar="WORDS", help="say which of these it shows")
    then.add_argument("--everything", action="store_true", help="everything that looks like an object")
    then.add_argument("--segmenter", default="", metavar="NAME", help="model that cuts out")
    then.add_argument("--detector", default="", metavar="NAME", help="model that finds what --text names")
    prompts.add_mask_flags(then)
    files = parser.add_argument_group("output")
    files.add_argument("--out", type=Path, default=Path("out"), metavar="FOLDER", help="default: %(default)s")
    files.add_argument(
        "--image-format", choices=("png", "jpeg"), default="png", help="of the pictures (default: %(default)s)"
    )
    files.add_argument(
        "--format",
        default="overlay,png",
        metavar="LIST",
        help=f"of what is cut out: {', '.join(FORMATS)} (default: %(default)s)",
    )
    files.add_argument("--json", action="store_true", help="print one JSON document a picture instead of a table")
    files.add_argument("--quiet", action="store_true", help="print errors alone")
    connection.add_to(parser)
    parser.set_defaults(run=run, takes_others=False)


def run(args: argparse.Namespace) -> int:
    """Makes the pictures and writes each as soon as it is there."""
    formats = [form.strip() for form in args.format.split(",") if form.strip()]
    if unknown := [form for form in formats if form not in FORMATS]:
        args.parser.error(f"--format takes {', '.join(FORMATS)}; got {unknown[0]!r}")
    options: Any = {name: getattr(args, name) for name in (*HOW, *CUT_OUT)} | _masks(args, formats)
    table = console.table("PICTURE", "SEED", "SIZE", "OBJECTS", right=("SEED", "SIZE", "OBJECTS"))
    with connection.connect(args) as client, _progress(args) as progress:
        bars = [progress.add_task(_short(prompt), total=args.steps) for prompt in args.prompts]
        stream = client.generate_stream(args.prompts, **options)
        for event in stream:
            if isinstance(event, GenerationProgress):
                progress.update(bars[event.prompt_index], completed=event.step, total=event.steps)
                continue
            paths = _write(event, args.out, formats)
            found = event.segmentation
            if args.json:
                console.write_json(_describe(event, paths))
            size = f"{event.width} x {event.height}"
            table.add_row(paths[0].name, str(event.seed), size, "-" if found is None else str(len(found)))
        timings = stream.result().timings
    if not (args.json or args.quiet):
        console.stdout().print(table)
        seconds = timings.total_ms / 1000
        console.stdout().print(f"\n{len(args.prompts)} made in {seconds:.1f} s, files in {args.out}/", soft_wrap=True)
    return 0


def _masks(args: argparse.Namespace, formats: list[str]) -> dict[str, Any]:
    """What to make of the masks; flags of no use end the program with its usage."""
    kinds = sum(bool(getattr(args, name)) for name in CUT_OUT)
    options = prompts.mask_options(args, outlines=outlined(formats))
    options |= {"detector": args.detector, "segmenter": args.segmenter}
    if kinds > 1:
        args.parser.error("--text, --concept and --everything cannot go together")
    if kinds:
        return options
    del options["mask_formats"]
    if any(options.values()):
        args.parser.error("say what to cut out: --text, --concept or --everything")
    return {}


def _progress(args: argparse.Namespace) -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    terminal = console.stderr()
    return Progress(*columns, console=terminal, transient=True, disable=args.quiet or not terminal.is_terminal)


def _write(image: GeneratedImage, folder: Path, formats: list[str]) -> list[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    words = re.sub(r"[^\w]+", "_", image.prompt).strip("_")[:40] or "picture"
    name = f"{words}.{image.seed}"  # The seed tells pictures of the same words apart.
    paths = [image.save(folder / f"{name}{SUFFIXES[image.content_type]}")]
    return paths if image.segmentation is None else [*paths, *image.segmentation.save(folder, formats, name=name)]


def _describe(image: GeneratedImage, paths: list[Path]) -> dict[str, Any]:
    found = image.segmentation
    described: dict[str, Any] = {
        name: getattr(image, name) for name in ("prompt", "seed", "width", "height", "content_type")
    }
    if found is not None:
        described["objects"] = [
            {"label": each.label, "score": each.score, "box": each.box, "area": each.area} for each in found
        ]
        described["omissions"] = [asdict(each) for each in found.omissions]
        described["models"] = found.models
        if found.concepts is not None:
            described["concepts"] = [asdict(each) for each in found.concepts]
    return described | {"files": [str(path) for path in paths]}


def _short(prompt: str) -> str:
    return prompt if len(prompt) <= 32 else f"{prompt[:29]}..."
