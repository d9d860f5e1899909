"""What reading a picture costs, and what JPEGs at a reduced scale would change.

python benchmarks/pictures.py [--quick] [--json FILE]

The last table is why pictures are decoded at full scale: a reduced JPEG is not the reference's resized picture.
"""

import asyncio
import io
import math
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import simplejpeg
from cutout_server.images.early_decoding import EarlyDecoding
from cutout_server.images.pixel_budget import PixelBudget
from cutout_server.imaging.decode import ImageLimits, decode, digest
from cutout_server.models.builtin import load
from cutout_server.models.queries import DecodeQuery
from cutout_server.types import Box, ModelFiles, ObjectPrompt, RgbImage
from harness.photographs import jpeg, photograph
from harness.report import Row, Table
from harness.rounds import Sample, interleave, ratio, timed
from harness.scenario import Plan, run
from PIL import Image

LIMITS = ImageLimits(1 << 30, 1 << 30)
SIDE = 1024  # Of the models' input.
UPLINK_BYTES = 12_500_000  # A second.
PIECE_BYTES = 512 * 1024


def measure(plan: Plan) -> list[Table]:
    """All tables."""
    return [_costs(plan), _arriving(plan), _reduced(plan)]


def _costs(plan: Plan) -> Table:
    rows: list[Row] = []
    for megapixels in (1, 12) if plan.quick else (1, 12, 48):
        pixels = photograph(0, _size(megapixels))
        file = jpeg(pixels)
        ways: dict[str, Callable[[], object]] = {
            "Pillow": lambda file=file: np.asarray(Image.open(io.BytesIO(file)).convert("RGB")),
            "OpenCV": lambda file=file: cv2.imdecode(np.frombuffer(file, np.uint8), cv2.IMREAD_COLOR_RGB),
            "ours, with the key": lambda file=file: decode(file, LIMITS),
            "digest alone": lambda pixels=pixels: digest(pixels),
        }
        taken = interleave({name: timed(way) for name, way in ways.items()}, plan.count(21, 5))
        rows += [
            {
                "megapixels": megapixels,
                "decoder": name,
                "times as fast as Pillow": ratio(taken["Pillow"], seconds).median,
                "ms": Sample.of(seconds).median * 1000,
            }
            for name, seconds in taken.items()
        ]
    return Table("Reading a JPEG of quality 90", rows)


def _arriving(plan: Plan) -> Table:
    pixels = photograph(0, _size(12))
    png = io.BytesIO()
    Image.fromarray(pixels).save(png, "PNG", compress_level=1)
    files = {"JPEG": jpeg(pixels), "PNG": png.getvalue()}
    ways = {
        ("JPEG", "whole"): timed(lambda: decode(files["JPEG"], LIMITS)),
        ("JPEG", "as it arrives, by Pillow"): lambda: _by_pillow(files["JPEG"]),
        ("PNG", "whole"): timed(lambda: decode(files["PNG"], LIMITS)),
        ("PNG", "as it arrives"): lambda: asyncio.run(_as_it_arrives(files["PNG"])),
    }
    rows: list[Row] = [
        {
            "file": kind,
            "MB": len(files[kind]) / 1e6,
            "decoded": how,
            "ms after the last byte": Sample.of(seconds).median * 1000,
        }
        for (kind, how), seconds in interleave(ways, plan.count(5, 2)).items()
    ]
    return Table(f"12 megapixels uploaded at {UPLINK_BYTES * 8 / 1e6:.0f} Mbit/s: when the pixels are there", rows)


async def _as_it_arrives(file: bytes) -> float:
    arrivals = EarlyDecoding(PixelBudget(2 * LIMITS.max_pixels), LIMITS)
    with tempfile.NamedTemporaryFile() as stored:
        arrival = arrivals.expect(Path(stored.name))
        for start in range(0, len(file), PIECE_BYTES):
            piece = file[start : start + PIECE_BYTES]
            await asyncio.sleep(len(piece) / UPLINK_BYTES)
            stored.write(piece)
            stored.flush()
            arrival.grew(stored.tell())
        began = time.perf_counter()
        arrival.ended()
        if await arrivals.take(Path(stored.name)) is None:
            raise RuntimeError("the picture was not decoded")
        seconds = time.perf_counter() - began
        await arrivals.close()
    return seconds


def _by_pillow(file: bytes) -> float:
    """Pillow takes a file in blocks, and leaves its pixels to be put together."""
    last = len(file) - PIECE_BYTES
    came_s = 0.0

    class Uplink(io.BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            nonlocal came_s
            block = super().read(size)
            if not came_s and self.tell() > last:
                came_s = time.perf_counter()
            return block

    np.array(Image.open(Uplink(file), formats=("JPEG",)))
    return time.perf_counter() - came_s


def _reduced(plan: Plan) -> Table:
    rows: list[Row] = []
    model = load(ModelFiles(), "cpu")
    for index in range(plan.count(8, 2)):
        file = jpeg(photograph(index, _size(12)))
        full = partial(simplejpeg.decode_jpeg, file, "RGB")
        reduced = partial(full, min_height=SIDE, min_width=SIDE, min_factor=2)
        whole, scaled = full(), reduced()
        taken = interleave({"full": timed(full), "reduced": timed(reduced)}, plan.count(9, 3))
        inputs = [
            np.asarray(Image.fromarray(each).resize((SIDE, SIDE), Image.Resampling.BILINEAR))
            for each in (whole, scaled)
        ]
        difference = np.abs(inputs[0].astype(int) - inputs[1])
        masks = [_mask(model, each) for each in inputs]
        rows.append(
            {
                "photograph": index,
                "reduced to": f"{scaled.shape[1]} x {scaled.shape[0]}",
                "times as fast": ratio(taken["full"], taken["reduced"]).median,
                "mean difference": float(difference.mean()),
                "greatest": int(difference.max()),
                "IoU": float((masks[0] & masks[1]).sum() / max(1, (masks[0] | masks[1]).sum())),
            }
        )
    title = f"The {SIDE} px input from a reduced 12-megapixel JPEG: grey levels, and a box's mask by the built-in model"
    mean = float(np.mean([row["IoU"] for row in rows]))
    return Table(
        title, rows, notes=[f"Mean IoU {mean:.4f}: masks depend on it, so that pictures are read at full scale."]
    )


def _mask(model: object, pixels: RgbImage) -> np.ndarray:
    (embedding,) = model.encode([pixels])
    prompt = ObjectPrompt(box=Box(SIDE / 4, SIDE / 4, SIDE * 3 / 4, SIDE * 3 / 4))
    (found,) = model.decode([DecodeQuery(embedding, prompt, multimask=False)])
    return np.asarray(found.logits[0] > 0)


def _size(megapixels: int) -> tuple[int, int]:
    width = round(math.sqrt(megapixels * 1e6 * 4 / 3))
    return round(width * 3 / 4), width


if __name__ == "__main__":
    run("pictures", measure, __doc__)
