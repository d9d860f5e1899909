"""scikit-image's photographs in any size and number, no two alike, and prompts on them."""

import io
import itertools
from functools import cache

import cv2
import numpy as np
import skimage.data
from numpy.typing import NDArray
from PIL import Image

NAMES = ("astronaut", "chelsea", "coffee", "rocket")
MEGAPIXEL = (896, 1152)  # (height, width)


def photograph(index: int, size: tuple[int, int] = MEGAPIXEL) -> NDArray[np.uint8]:
    """A photograph: (H, W, 3) uint8 RGB. Equal for equal arguments, and other pixels for every other index.

    Args:
        index: Not negative.
        size: (height, width) in pixels.
    """
    rng = np.random.default_rng(index)
    pixels = _cover(NAMES[index % len(NAMES)], size)
    if rng.random() < 0.5:
        pixels = pixels[:, ::-1]
    return np.roll(pixels, (int(rng.integers(size[0])), int(rng.integers(size[1]))), axis=(0, 1))


@cache
def _cover(name: str, size: tuple[int, int]) -> NDArray[np.uint8]:
    """The photograph's middle, enlarged until it covers the size."""
    pixels: NDArray[np.uint8] = getattr(skimage.data, name)()
    scale = max(size[0] / pixels.shape[0], size[1] / pixels.shape[1])
    height, width = (round(side * scale) for side in pixels.shape[:2])
    enlarged = cv2.resize(pixels, (max(width, size[1]), max(height, size[0])), interpolation=cv2.INTER_CUBIC)
    top, left = (enlarged.shape[0] - size[0]) // 2, (enlarged.shape[1] - size[1]) // 2
    return np.ascontiguousarray(enlarged[top : top + size[0], left : left + size[1]])


def jpeg(pixels: NDArray[np.uint8]) -> bytes:
    """A JPEG file of quality 90."""
    done, data = cv2.imencode(".jpg", cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, 90])
    assert done
    return data.tobytes()


def many_scans(pixels: NDArray[np.uint8], scans: int) -> bytes:
    """A progressive JPEG file whose last scan comes again and again: a small file of much work."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=90, progressive=True)
    content = file.getvalue()
    last = content[content.rfind(b"\xff\xda") : -2]
    return content[:-2] + last * (scans - content.count(b"\xff\xda")) + content[-2:]


class Stock:
    """Files of photographs that nobody has seen yet: no two stocks of a process share one."""

    _indices = itertools.count()

    def __init__(self, size: tuple[int, int] = MEGAPIXEL) -> None:
        self.size = size

    def take(self, count: int) -> list[bytes]:
        """That many, made before they are measured on."""
        return [jpeg(photograph(next(self._indices), self.size)) for _ in range(count)]


def boxes(count: int, size: tuple[int, int] = MEGAPIXEL, seed: int = 0) -> NDArray[np.float64]:
    """(count, 4) [x_min, y_min, x_max, y_max] in whole pixels.

    One box is three fifths of the picture on each side; many lie in a grid, each as large as its cell allows, jittered.
    """
    height, width = size
    if count == 1:
        return np.round(np.array([[0.2, 0.2, 0.8, 0.8]]) * [width, height, width, height])
    columns = int(np.ceil(np.sqrt(count)))
    rows = -(-count // columns)
    rng = np.random.default_rng(seed)
    cells = np.array([(i % columns, i // columns) for i in range(count)], float)
    low = cells + rng.uniform(0.02, 0.2, (count, 2))
    high = cells + rng.uniform(0.8, 0.98, (count, 2))
    corners: NDArray[np.float64] = np.concatenate([low, high], axis=1) / [columns, rows, columns, rows]
    return np.round(corners * [width, height, width, height])
