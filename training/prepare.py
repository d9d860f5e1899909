"""Photographs with outlined objects to one file that training maps into memory.

    python training/prepare.py --photographs FOLDER [FOLDER ...] --out build/pocket/pictures

README.md says what a folder holds. Pictures are decoded once: reading a crop of one is then a copy of a few rows.
"""

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from excluded import Excluded

LONGEST = 640  # Pixels; longer pictures are made smaller. Crops of 128 pixels need no more.
SMALLEST_SIDE, SMALLEST_AREA = 10, 100  # Of an object, in pixels.
IGNORE = 255


def rows(folder: Path, without: set[str]) -> Iterator[dict[str, Any]]:
    """The pictures of a folder whose licence is for the picture or stated by the data set."""
    for line in (folder / "index.jsonl").read_text().splitlines():
        row = json.loads(line)
        if row["tier"] in ("A", "A2") and row["set"] not in without:
            yield row


def read(folder: Path, row: dict[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    """(H, W, 3) uint8 RGB and (H, W) uint8 object numbers, no side longer than LONGEST."""
    picture = cv2.cvtColor(cv2.imread(str(folder / row["file"]), cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)
    numbers = cv2.imread(str(folder / row["mask"]), cv2.IMREAD_UNCHANGED)
    assert numbers.shape == picture.shape[:2], row["file"]
    scale = LONGEST / max(numbers.shape)
    if scale < 1:
        size = (round(numbers.shape[1] * scale), round(numbers.shape[0] * scale))
        picture = cv2.resize(picture, size, interpolation=cv2.INTER_AREA)
        numbers = cv2.resize(numbers, size, interpolation=cv2.INTER_NEAREST)
    return picture, numbers


def objects(numbers: np.ndarray, row: dict[str, Any]) -> Iterator[tuple[list[int], tuple[int, int, int, int], int]]:
    """(numbers, box, area) of each object that is large enough, and of each group of them."""
    wanted = [[found["id"]] for found in row["objects"]] + [group["ids"] for group in row.get("groups", ())]
    for ids in wanted:
        mask = np.isin(numbers, ids)
        across, down = np.flatnonzero(mask.any(0)), np.flatnonzero(mask.any(1))
        area = int(mask.sum())
        if area < SMALLEST_AREA or min(len(across), len(down)) < SMALLEST_SIDE:
            continue
        yield ids, (int(across[0]), int(down[0]), int(across[-1]) + 1, int(down[-1]) + 1), area


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photographs", type=Path, nargs="+", required=True)
    parser.add_argument("--without", nargs="*", default=["ccp"], help="sets that are left out")
    parser.add_argument(
        "--excluded", type=Path, help="folder with the lists of what is set aside for judging; the first of photographs"
    )
    parser.add_argument("--out", type=Path, required=True, help="OUT.bin and OUT.json are written")
    arguments = parser.parse_args()
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    pictures, found, offset, left_out = [], [], 0, 0
    excluded = Excluded(arguments.excluded or arguments.photographs[0])
    with Path(f"{arguments.out}.bin").open("wb") as file:
        for folder in arguments.photographs:
            for row in rows(folder, set(arguments.without)):
                picture, numbers = read(folder, row)
                if excluded.holds(picture, row):
                    left_out += 1
                    continue
                height, width = numbers.shape
                half = (max(width // 2, 1), max(height // 2, 1))
                smaller = cv2.resize(picture, half, interpolation=cv2.INTER_AREA)
                parts = picture, numbers, smaller, cv2.resize(numbers, half, interpolation=cv2.INTER_NEAREST)
                file.writelines(part.tobytes() for part in parts)
                for ids, box, area in objects(numbers, row):
                    found.append({"picture": len(pictures), "ids": ids, "box": box, "area": area})
                pictures.append(
                    {
                        "offset": offset,
                        "height": height,
                        "width": width,
                        "set": row["set"],
                        "split": row["split"],
                        "file": row["file"],
                    }
                )
                offset += sum(part.size for part in parts)
    Path(f"{arguments.out}.json").write_text(json.dumps({"pictures": pictures, "objects": found}))
    print(f"{len(pictures)} pictures, {len(found)} objects, {offset / 2**20:.0f} MiB; {left_out} left out as set aside")


if __name__ == "__main__":
    main()
