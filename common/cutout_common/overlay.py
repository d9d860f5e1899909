"""Draws masks, outlines, labels and prompts on a picture, at any size, with NumPy and Pillow alone."""

import colorsys
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

from cutout_common.labels import Plate, place

Color = tuple[int, int, int]

FILL_OPACITY = 0.42
# Okabe and Ito's palette for all kinds of colour vision (2008), brightened a little, neighbours far apart.
_PALETTE: tuple[Color, ...] = (
    (64, 176, 255),
    (255, 159, 28),
    (0, 190, 135),
    (232, 100, 190),
    (248, 228, 60),
    (240, 84, 40),
    (60, 110, 240),
)
_GOLDEN_RATIO = 0.618034


class BoxLike(Protocol):
    """A rectangle in pixels."""

    @property
    def x_min(self) -> float: ...  # noqa: D102
    @property
    def y_min(self) -> float: ...  # noqa: D102
    @property
    def x_max(self) -> float: ...  # noqa: D102
    @property
    def y_max(self) -> float: ...  # noqa: D102


class Drawable(Protocol):
    """An object to draw. Its mask is asked for once, and let go before the next one's.

    Outside of `part`, which is its first row, its first column and (h, w) bool, nothing of the (height, width) mask is
    inside.
    """

    @property
    def image_size(self) -> tuple[int, int]: ...  # noqa: D102
    @property
    def part(self) -> tuple[int, int, NDArray[np.bool_]]: ...  # noqa: D102
    @property
    def area(self) -> int: ...  # noqa: D102
    @property
    def label(self) -> str: ...  # noqa: D102
    @property
    def score(self) -> float | None: ...  # noqa: D102
    @property
    def prompt_box(self) -> BoxLike | None: ...  # noqa: D102


@dataclass(frozen=True)
class OverlayItem:
    """An object to draw.

    Attributes:
        mask: (H, W) bool.
        label: What to write beside it; nothing when empty.
        score: Written behind the label.
        prompt_box: Drawn as a thin line.
    """

    mask: NDArray[np.bool_]
    label: str = ""
    score: float | None = None
    prompt_box: BoxLike | None = None

    @property
    def image_size(self) -> tuple[int, int]:
        """(height, width) of the mask."""
        height, width = self.mask.shape
        return height, width

    @property
    def part(self) -> tuple[int, int, NDArray[np.bool_]]:
        """All of it."""
        return 0, 0, self.mask

    @property
    def area(self) -> int:
        """Pixels inside."""
        return int(np.count_nonzero(self.mask))


@dataclass(frozen=True)
class OverlayPoint:
    """A click to draw: (x, y) in pixels; label 1 inside, 0 outside."""

    x: float
    y: float
    label: int = 1


def color_of(index: int) -> Color:
    """The colour of the object at this place in an answer: always the same, and far from its neighbours'."""
    if index < len(_PALETTE):
        return _PALETTE[index]
    hue = index * _GOLDEN_RATIO % 1
    # Lightness takes turns, too, for those who see fewer hues.
    red, green, blue = colorsys.hls_to_rgb(hue, (0.58, 0.72, 0.46)[index % 3], 0.9)
    return round(red * 255), round(green * 255), round(blue * 255)


def draw(
    pixels: NDArray[np.uint8], items: Iterable[Drawable], *, points: Sequence[OverlayPoint] = ()
) -> NDArray[np.uint8]:
    """Draws objects on a picture. Larger ones lie below smaller ones; colours follow the order of the items.

    Args:
        pixels: (H, W, 3) uint8 RGB; not changed.
        items: The objects.
        points: Clicks to mark.

    Returns:
        (H, W, 3) uint8 RGB.

    Raises:
        ValueError: A mask has another size than the picture.
    """
    canvas = Image.fromarray(pixels)
    # Lines and letters have the same size in relation to every picture, down to where they would vanish.
    scale = float(np.hypot(*canvas.size)) / 1000
    line = min(max(2.0, 2.2 * scale), 10 * scale)
    numbered = sorted(enumerate(items), key=lambda pair: -pair[1].area)
    plates = []
    for index, item in numbered:
        color = color_of(index)
        drawn = _draw_mask(canvas, item, color, line)
        if item.prompt_box is not None:
            _draw_box(canvas, item.prompt_box, color, scale)
        words = item.label.split()
        if drawn is not None and words:
            text = " ".join(words if item.score is None else [*words, f"{item.score:.2f}"])
            plates.append(Plate(index, text, *drawn, color))
    letters = max(11.0, 17 * scale)
    for plate, corner in place(sorted(plates, key=lambda plate: plate.index), canvas.size, letters):
        plate.draw(canvas, corner, letters)
    for point in points:
        _draw_point(canvas, point, max(5.0, 9 * scale))
    return np.asarray(canvas)


def encode_png(pixels: NDArray[np.uint8]) -> bytes:
    """(H, W, 3) uint8 RGB as a PNG file."""
    file = io.BytesIO()
    # Level 1 is three times as fast as the default, and a tenth larger.
    Image.fromarray(pixels).save(file, "PNG", compress_level=1)
    return file.getvalue()


def encode_jpeg(pixels: NDArray[np.uint8], quality: int = 90) -> bytes:
    """(H, W, 3) uint8 RGB as a JPEG file, colours at full resolution so that thin lines keep theirs."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=quality, subsampling=0)
    return file.getvalue()


def _draw_mask(
    canvas: Image.Image, item: Drawable, color: Color, line: float
) -> tuple[tuple[int, int, int, int], int] | None:
    """Tints a mask and draws its outline; gives its box, and the column of its uppermost pixel."""
    if item.image_size != (canvas.height, canvas.width):
        size = f"{item.image_size[1]} x {item.image_size[0]}"
        raise ValueError(f"expected masks of {canvas.width} x {canvas.height} pixels, got {size}")
    row, column, part = item.part
    rows, columns = np.flatnonzero(part.any(axis=1)), np.flatnonzero(part.any(axis=0))
    if not rows.size:
        return None
    tight = part[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    top, left = row + int(rows[0]), column + int(columns[0])
    bottom, right = top + tight.shape[0], left + tight.shape[1]
    # The picture's own edge is no outline: what touches it goes on behind it.
    margin = int(np.ceil(line * 2))
    y0, y1 = max(0, top - margin), min(canvas.height, bottom + margin)
    x0, x1 = max(0, left - margin), min(canvas.width, right + margin)
    inside = np.pad(tight, ((top - y0, y1 - bottom), (left - x0, x1 - right)))
    canvas.paste(color, (x0, y0), Image.fromarray(inside * np.uint8(255 * FILL_OPACITY)))
    softened = np.asarray(Image.fromarray(inside * np.uint8(255)).filter(ImageFilter.GaussianBlur(line)))
    for shade, width, opacity in ((_darker(color), line * 1.9, 0.55), (color, line, 1.0)):
        within, without = _profile(line, width, opacity)
        canvas.paste(shade, (x0, y0), Image.fromarray(np.where(inside, within[softened], without[softened])))
    return (left, top, right, bottom), left + int(np.flatnonzero(tight[0]).mean())


def _profile(sigma: float, width: float, opacity: float) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Opacity of a line around an edge, by the value of the mask blurred with `sigma`: inside, and outside.

    A blurred straight edge tells how far it is. What is too thin to tell is drawn wholly as line.
    """
    share = (np.arange(256) + 0.5) / 256
    # The logistic curve stands for the normal one: within 2% (Bowling et al. 2009).
    distance = sigma * np.log(share / (1 - share)) / 1.702
    near, far = (np.clip(width / 2 + 0.5 - d, 0, 1) * (255 * opacity) for d in (distance, -distance))
    return near.astype(np.uint8), far.astype(np.uint8)


def _darker(color: Color) -> Color:
    return color[0] // 4, color[1] // 4, color[2] // 4


def _draw_box(canvas: Image.Image, box: BoxLike, color: Color, scale: float) -> None:
    width = max(1, round(1.2 * scale))
    left, top = min(round(box.x_min), canvas.width - 1), min(round(box.y_min), canvas.height - 1)
    right, bottom = max(round(box.x_max) - 1, left), max(round(box.y_max) - 1, top)  # At least a line.
    ImageDraw.Draw(canvas).rectangle((left, top, right, bottom), outline=color, width=width)


def _draw_point(canvas: Image.Image, point: OverlayPoint, radius: float) -> None:
    """A disc with a plus inside objects, with a minus outside: told apart without colours, too."""
    pen = ImageDraw.Draw(canvas)
    pen.circle((point.x, point.y), radius, fill=(20, 160, 70) if point.label else (215, 40, 40))
    pen.circle((point.x, point.y), radius, outline="white", width=max(1, round(radius / 4)))
    arm, width = radius * 0.45, max(1, round(radius / 4))
    pen.line((point.x - arm, point.y, point.x + arm, point.y), "white", width)
    if point.label:
        pen.line((point.x, point.y - arm, point.x, point.y + arm), "white", width)
