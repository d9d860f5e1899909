"""Which photographs are set aside for judging: never trained on."""

import json
import re
from pathlib import Path
from typing import Any

import imagehash
import numpy as np
from PIL import Image

NEAR = 12  # Photographs of which both hashes of 64 bits differ by fewer are the same.


class Excluded:
    """The photographs whose hashes and COCO numbers a folder lists; one without such lists excludes nothing."""

    def __init__(self, folder: Path) -> None:
        hashes, ids = folder / "excluded_hashes.npz", folder / "excluded_coco_ids.json"
        self._hashes = np.load(hashes)["hashes"] if hashes.exists() else np.zeros((0, 2, 8), np.uint8)
        self._ids = set(json.loads(ids.read_text())) if ids.exists() else set()

    def holds(self, picture: np.ndarray, row: dict[str, Any]) -> bool:
        """Whether an (H, W, 3) uint8 RGB picture, or the number in its name where it is COCO's, is listed."""
        number = re.search(r"(\d{12})\.jpg$", row.get("orig", ""))
        if number and int(number[1]) in self._ids:
            return True
        if not len(self._hashes):
            return False
        image = Image.fromarray(picture)
        own = np.stack([np.packbits(made(image).hash) for made in (imagehash.phash, imagehash.dhash)])
        apart = np.bitwise_count(self._hashes ^ own).sum(-1)
        return bool((apart < NEAR).all(1).any())
