"""What it costs to decode in a process that can be killed, and whether what a file costs is known before.

python benchmarks/decoding.py [--quick] [--json FILE]

The first table is why ordinary pictures are decoded in threads; `images/decoder.py` says which are.
"""

import asyncio
import io
import time
from collections.abc import Callable

import numpy as np
from cutout_server.images.decoder import is_long
from cutout_server.images.decoder_processes import Decoders
from cutout_server.imaging.decode import ImageLimits, OpenedFile, open_file
from harness.photographs import many_scans, photograph
from harness.report import Row, Table
from harness.rounds import Sample, interleave, ratio
from harness.scenario import Plan, run
from PIL import Image

LIMITS = ImageLimits(1 << 30, 120_000_000)
NS_PER_PIXEL = 5.0  # As `costs` counts them.


class Silent:
    """Nobody counts here."""

    def queue(self, where: str, waiting: Callable[[], int]) -> None:
        """See WorkObserver."""

    def worked(self, where: str, waited_s: float, seconds: float) -> None:
        """See WorkObserver."""

    def given_up(self, why: str) -> None:
        """See DecodeObserver."""


def measure(plan: Plan) -> list[Table]:
    """Both tables."""
    return [_ways(plan), _estimates(plan)]


def _ways(plan: Plan) -> Table:
    rows: list[Row] = []
    with asyncio.Runner() as runner:
        decoders = runner.run(_decoders())
        for megapixels in (1, 12) if plan.quick else (1, 12, 48, 100):
            for kind, options in (("JPEG", {"quality": 90}), ("PNG", {"compress_level": 1})):
                content = _saved(_pixels(megapixels), kind, **options)

                def thread(content: bytes = content) -> float:
                    return _seconds(open_file(content, LIMITS).picture)

                def process(content: bytes = content) -> float:
                    file = open_file(content, LIMITS)
                    return _seconds(lambda: runner.run(decoders.decode(file)))

                ways = {"in a thread": thread, "in a process": process}
                taken = interleave(ways, plan.count(9, 3) if megapixels < 48 else plan.count(5, 2))
                rows.append(
                    {
                        "file": f"{kind} of {megapixels} MP",
                        "thread, ms": Sample.of(taken["in a thread"]).median * 1000,
                        "process, ms": Sample.of(taken["in a process"]).median * 1000,
                        "times as long": ratio(taken["in a process"], taken["in a thread"]).median,
                        "is decoded in a": "process" if is_long(open_file(content, LIMITS)) else "thread",
                    }
                )
        runner.run(decoders.close())
        small = open_file(_saved(_pixels(1), "JPEG"), LIMITS)
        first_s = _seconds(lambda: runner.run(_first(small)))
        notes = [f"A process begins when it is needed: a first picture of 1 MP took {first_s * 1000:.0f} ms."]
    return Table("Decoding, with the picture's key", rows, notes=notes)


def _estimates(plan: Plan) -> Table:
    pixels = _pixels(1 if plan.quick else 4)
    noise = np.random.default_rng(0).integers(0, 256, pixels.shape, np.uint8)
    kinds: dict[str, tuple[str, dict[str, object]]] = {
        "JPEG": ("JPEG", {"quality": 90}),
        "progressive JPEG": ("JPEG", {"quality": 90, "progressive": True}),
        "PNG": ("PNG", {"compress_level": 1}),
        "WebP": ("WEBP", {"quality": 90}),
        "lossless WebP": ("WEBP", {"lossless": True, "quality": 10, "method": 0}),
        "TIFF, LZW": ("TIFF", {"compression": "tiff_lzw"}),
        "AVIF": ("AVIF", {"quality": 90, "speed": 10}),
    }
    rows: list[Row] = []
    for of, values in (("photograph", pixels), ("noise", noise)):
        for name, (kind, options) in kinds.items():
            rows.append(_estimated(f"{name}, {of}", _saved(values, kind, **options), plan))
    rows += [_estimated(f"JPEG of {scans} scans", many_scans(pixels, scans), plan) for scans in (30, 100)]
    return Table("Time for each pixel, told from the header, and measured", rows)


def _estimated(name: str, content: bytes, plan: Plan) -> Row:
    file = open_file(content, LIMITS)
    pixels = file.header.width * file.header.height
    ways = {"": lambda: _processor_seconds(open_file(content, LIMITS).picture)}
    taken = interleave(ways, plan.count(5, 2))[""]
    return {
        "file": name,
        "told, ns": file.work * NS_PER_PIXEL / pixels,
        "measured, ns": Sample.of(taken).median / pixels * 1e9,
    }


async def _decoders() -> Decoders:
    return Decoders(1, 600, Silent())


async def _first(file: OpenedFile) -> None:
    decoders = await _decoders()
    await decoders.decode(file)
    await decoders.close()


def _seconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def _processor_seconds(work: Callable[[], object]) -> float:
    began = time.thread_time()
    work()
    return time.thread_time() - began


def _pixels(megapixels: int) -> np.ndarray:
    width = round((megapixels * 1e6 * 4 / 3) ** 0.5)
    return photograph(0, (round(width * 3 / 4), width))


def _saved(pixels: np.ndarray, kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind, **options)
    return file.getvalue()


if __name__ == "__main__":
    run("decoding", measure, __doc__)
