"""From low-resolution logits to what callers get: masks made as a whole against masks made only where they can be.

python benchmarks/masks.py [--quick] [--json FILE]

Round objects with uneven borders, of three fifths of the picture when alone, and side by side when many. Both ways are
interleaved; their answers are compared before they are timed.
"""

import argparse
import time
import tracemalloc
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from cutout_common import masks as codec
from cutout_server.imaging import masks
from cutout_server.models.bilinear import Interpolation
from cutout_server.models.sam.longest_side import interpolations as of_square
from cutout_server.models.upscale import Upscaling
from cutout_server.types import MaskFormat, MaskPatch, Options
from harness.photographs import boxes
from harness.plots import Bars
from harness.report import Report, Row, Table
from harness.rounds import Sample, interleave, ratio
from torch import Tensor
from torch.nn import functional

SIZES = {"1 MP": (896, 1152), "12 MP": (3000, 4000), "100 MP": (8660, 11547)}
COUNTS = (1, 8, 64)
STEPS = ("mask", "RLE, area, box", "PNG", "polygons")
SQUARE = 1024
LONG = 500_000_000  # Pixels times objects.


def main() -> None:
    """Prints the table, and writes it when asked to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a glance, within a minute")
    parser.add_argument("--json", type=Path, help="write the figures here, and plots beside it")
    args = parser.parse_args()
    sizes = dict(list(SIZES.items())[:2]) if args.quick else SIZES
    rows = [
        row
        for name, size in sizes.items()
        for count in COUNTS[: 2 if args.quick else None]
        for row in compare(f"{name}, {count}", size, count, 3 if args.quick else 5)
    ]
    figure = Bars(label="picture, objects", value="times as fast", axis="times as fast as the whole way", goal=1)
    notes = [f"Stages in ms: {', '.join(STEPS)}; the slowest way takes all of them. Masks are equal on every pixel."]
    report = Report("masks", [Table("Masks from logits of 256 x 256", rows, figure, notes)], {"quick": args.quick})
    print(report, flush=True)
    if args.json:
        report.write(args.json)


def compare(name: str, size: tuple[int, int], count: int, rounds: int) -> list[Row]:
    """A row for logits over the picture, as SAM 2 has them, and one for those over the padded square."""
    rows: list[Row] = []
    for family, interpolations in (("SAM 2", (Interpolation(size, size),)), ("SAM", of_square(size, SQUARE))):
        logits = objects(count, size, square=family == "SAM")
        upscaling = Upscaling((256, 256), interpolations)
        first = next(iter(upscaling.levels(logits[:1], [0.0]))).patch(0)
        assert np.array_equal(first.whole(), whole(logits[0], interpolations))
        times: dict[str, list[list[float]]] = {"whole": [], "part": []}
        ways: dict[str, Callable[[], float]] = {
            "whole": lambda: timed(times["whole"], by_wholes, logits, interpolations),  # noqa: B023 - called in this turn
            "part": lambda: timed(times["part"], by_parts, logits, upscaling),  # noqa: B023
        }
        # The whole way takes minutes for many objects in the largest pictures.
        long = count * size[0] * size[1] > LONG
        taken = interleave(ways, 1 if long else rounds, warmups=0 if long else 1)
        stages = {way: np.median(np.array(each), axis=0) for way, each in times.items()}
        rows.append(
            {
                "picture, objects": f"{name}, {family}",
                "ms": Sample.of(taken["part"]).median * 1000,
                "whole way ms": Sample.of(taken["whole"]).median * 1000,
                "times as fast": ratio(taken["whole"], taken["part"]).median,
                **{step: f"{stages['part'][i]:.1f} ({stages['whole'][i]:.1f})" for i, step in enumerate(STEPS)},
                "peak MiB": peak(by_parts, logits, upscaling),
            }
        )
    return rows


def objects(count: int, size: tuple[int, int], *, square: bool) -> Tensor:
    """(count, 256, 256) float32 logits, about as steep as a trained model's."""
    height, width = size
    sides = np.array([width, height]) * (1 if not square else max(size) / np.array([width, height]))
    chance = torch.Generator().manual_seed(count)
    y, x = torch.meshgrid(torch.arange(256.0), torch.arange(256.0), indexing="ij")
    logits = []
    for x_min, y_min, x_max, y_max in boxes(count, size) / np.tile(sides, 2) * 256:
        across, down = (x_max - x_min) / 2, (y_max - y_min) / 2
        distance = torch.hypot((x - x_min - across) / across, (y - y_min - down) / down)
        logits.append(((1 - distance) * min(across, down) * 1.5).clamp(-15, 12))
    uneven = functional.interpolate(torch.randn(count, 1, 64, 64, generator=chance), (256, 256), mode="bicubic")[:, 0]
    return torch.stack(logits) + uneven


def whole(logits: Tensor, interpolations: Sequence[Interpolation]) -> np.ndarray:
    """One mask as the official predictors make it."""
    values = logits[None]
    for interpolation in interpolations:
        values = interpolation(values)
    mask: np.ndarray = (values[0] > 0).numpy()
    return mask


def by_wholes(logits: Tensor, interpolations: Sequence[Interpolation], lap: Callable[[int], None]) -> None:
    """Each mask at full size, and everything from that."""
    for each in logits:
        mask = whole(each, interpolations)
        lap(0)
        counts = codec.rle_encode(mask)
        int(np.count_nonzero(mask))
        codec.rle_box(*mask.shape, counts)
        lap(1)
        codec.png_encode(mask)
        lap(2)
        masks.polygons(MaskPatch.of(mask))
        lap(3)


def by_parts(logits: Tensor, upscaling: Upscaling, lap: Callable[[int], None]) -> None:
    """As the server does it."""
    for levels in upscaling.levels(logits, [0.0]):
        patch = levels.patch(0)
        lap(0)
        rle = masks.to_rle(patch)
        masks.area(rle)
        masks.tight_box(rle)
        lap(1)
        masks.encode(rle, MaskFormat.PNG, Options())
        lap(2)
        masks.encode(rle, MaskFormat.POLYGONS, Options())
        lap(3)


def timed(times: list[list[float]], work: Callable[..., None], *arguments: object) -> float:
    """Seconds of all; the stages' milliseconds are appended."""
    stages, last = [0.0] * len(STEPS), [time.perf_counter()]

    def lap(stage: int) -> None:
        now = time.perf_counter()
        stages[stage] += 1000 * (now - last[0])
        last[0] = now

    work(*arguments, lap)
    times.append(stages)
    return sum(stages) / 1000


def peak(work: Callable[..., None], *arguments: object) -> float:
    """MiB that Python and NumPy held at once; torch's strips are beside them."""
    tracemalloc.start()
    work(*arguments, lambda _: None)
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return float(most / 2**20)


if __name__ == "__main__":
    torch.set_grad_enabled(False)
    main()
