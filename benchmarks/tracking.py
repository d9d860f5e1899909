"""How well objects are followed without a download: the built-in tracker beside the first mask repeated.

    python benchmarks/tracking.py [--frames 40] [--tune] [--json FILE]

Videos are made of real photographs (`outlined.py`, traced by hand): an object is cut out and moves, turns and grows
over another photograph that moves, too; the light changes; in half of them a post hides it for a while. The tracker
gets the true mask, or its box, in the first frame. J is the mean IoU of the frames after it, F that of the outlines
(DAVIS, Perazzi et al., CVPR 2016); where the object is hidden both are 1 for no mask and 0 for any. With --tune the
videos are those that the tracker was tuned on; without, the others.
"""

import argparse
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from builtin_quality import boundary_f
from cutout_common.masks import rle_encode
from cutout_server.models.builtin import load
from cutout_server.models.queries import MaskQuery, TrackQuery
from cutout_server.types import BoolMask, Box, ModelFiles, ObjectPrompt, RgbImage, Rle
from harness.report import Report, Row, Table
from outlined import Case, of_scikit_image

HEIGHT, WIDTH = 240, 320
TUNED_ON = {"astronaut/shuttle", "coffee/cup", "motorcycle_left/tank"}
_SIDE = 90  # Longer side of an object in the first frame, in pixels.
_POST = 60  # Width of what hides it, in pixels.


@dataclass(frozen=True)
class Video:
    """Frames and the object's true masks in them."""

    name: str
    frames: list[RgbImage]
    truth: list[BoolMask]


def main() -> None:
    """Prints a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=40)
    parser.add_argument("--tune", action="store_true")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    cv2.setNumThreads(1)
    rows = measure(list(videos(arguments.frames, tuned_on=arguments.tune)))
    report = Report("tracking", [Table("J and F over the frames after the first", rows)], {"frames": arguments.frames})
    print(report)
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=1))


def measure(made: list[Video]) -> list[Row]:
    """A row for each video, and one for their means."""
    rows: list[Row] = []
    for video in made:
        row: Row = {"video": video.name}
        contenders = {
            "repeated": [video.truth[0]] * len(video.frames),
            "mask": followed(video, Rle(HEIGHT, WIDTH, rle_encode(video.truth[0]))),
            "box": followed(video, ObjectPrompt(box=_box(video.truth[0]))),
        }
        for name, masks in contenders.items():
            pairs = list(zip(masks[1:], video.truth[1:], strict=True))
            row[f"J {name}"] = round(float(np.mean([_iou(*pair) for pair in pairs])), 3)
            row[f"F {name}"] = round(float(np.mean([_outline(*pair) for pair in pairs])), 3)
        rows.append(row)
    means = {key: round(float(np.mean([row[key] for row in rows])), 3) for key in rows[0] if key != "video"}
    return [*rows, {"video": "mean", **means}]


def followed(video: Video, prompt: ObjectPrompt | Rle) -> list[BoolMask]:
    """What the built-in tracker makes of a video."""
    model, memory, masks = load(ModelFiles(), "cpu"), None, []
    for number, frame in enumerate(video.frames):
        (embedding,) = model.encode([frame])
        query = TrackQuery(embedding, number, memory, None if number else prompt, number)
        (answer,) = model.track([query])
        memory = answer.memory
        present = answer.presence > 0.5
        masks.append(
            model.masks([MaskQuery(embedding, answer.logits, 0.0)])[0].whole()
            if present
            else np.zeros((HEIGHT, WIDTH), np.bool_)
        )
    return masks


def videos(frames: int, *, tuned_on: bool) -> Iterator[Video]:
    """Each object over another's photograph, once in the open and once behind a post."""
    traced = [case for case in of_scikit_image() if case.source == "traced" and case.truth.sum() > 1500]
    for index, case in enumerate(traced):
        if (case.name in TUNED_ON) is tuned_on:
            others = [other for other in traced if other.name.split("/")[0] != case.name.split("/")[0]]
            behind = others[index % len(others)].pixels
            for hidden in (False, True):
                yield _video(case, behind, frames, index, hidden=hidden)


def _video(case: Case, behind: RgbImage, frames: int, seed: int, *, hidden: bool) -> Video:
    rng = np.random.default_rng(seed)
    rows, columns = np.flatnonzero(case.truth.any(1)), np.flatnonzero(case.truth.any(0))
    part = np.s_[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    pixels, mask = case.pixels[part], case.truth[part].astype(np.float32)
    scale = _SIDE / max(mask.shape)
    ground = cv2.resize(behind, (WIDTH * 2, HEIGHT * 2), interpolation=cv2.INTER_AREA)
    post = cv2.resize(behind[::-1, ::-1], (_POST, HEIGHT), interpolation=cv2.INTER_AREA)
    angle, growth = rng.uniform(-25, 25), rng.uniform(0.8, 1.3)
    made, truth = [], []
    for number in range(frames):
        t = number / max(frames - 1, 1)
        x, y = WIDTH * (0.2 + 0.6 * t), HEIGHT * (0.5 + 0.15 * np.sin(3 * t + seed))
        turn = cv2.getRotationMatrix2D(
            (mask.shape[1] / 2, mask.shape[0] / 2), angle * t, scale * (1 + (growth - 1) * t)
        )
        turn[:, 2] += (x - mask.shape[1] / 2, y - mask.shape[0] / 2)
        size = (WIDTH, HEIGHT)
        alpha = cv2.warpAffine(mask, turn, size, flags=cv2.INTER_AREA)[..., None]
        seen = cv2.warpAffine(pixels, turn, size, flags=cv2.INTER_AREA)
        left, top = int(WIDTH * 0.4 * t), int(HEIGHT * 0.3 * t)
        frame = alpha * seen + (1 - alpha) * ground[top : top + HEIGHT, left : left + WIDTH]
        inside = alpha[..., 0] > 0.5
        if hidden:
            edge = WIDTH // 2 - _POST // 2
            frame[:, edge : edge + _POST] = post
            inside[:, edge : edge + _POST] = False
        light = 1 + 0.15 * np.sin(6 * t)
        noise = rng.normal(0, 3, frame.shape)
        made.append(np.clip(frame * light + noise, 0, 255).astype(np.uint8))
        truth.append(inside)
    return Video(f"{case.name}{', hidden' if hidden else ''}", made, truth)


def _iou(mask: BoolMask, truth: BoolMask) -> float:
    either = np.count_nonzero(mask | truth)
    return np.count_nonzero(mask & truth) / either if either else 1.0


def _outline(mask: BoolMask, truth: BoolMask) -> float:
    return boundary_f(mask, truth) if mask.any() or truth.any() else 1.0


def _box(mask: BoolMask) -> Box:
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return Box(float(columns[0]), float(rows[0]), float(columns[-1] + 1), float(rows[-1] + 1))


if __name__ == "__main__":
    main()
