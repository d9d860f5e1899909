"""What the server answered about a picture: facts, arrays and drawings; files are made of it elsewhere."""

import io
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import PIL.Image
from cutout.v1 import segmentation_pb2
from numpy.typing import NDArray

from cutout_client.concepts import Concepts, Rewriting
from cutout_client.drawing import cut_out
from cutout_client.images import ImageLike, Picture, read_picture
from cutout_client.objects import SegmentedObject, drawn, mask_of


@dataclass(frozen=True)
class ImageInfo:
    """The picture as the server saw it.

    Attributes:
        width: Columns, in pixels, after the EXIF orientation was applied.
        height: Rows.
        pixels_sha256: Equal for equal pictures, whatever file they came in.
    """

    width: int
    height: int
    pixels_sha256: str


@dataclass(frozen=True)
class Timings:
    """Where the time went inside the server, in milliseconds; stages that did not run are 0.

    Attributes:
        queue_ms: Waiting for a device.
        decode_ms: Reading the picture.
        detect_ms: Words to boxes.
        encode_ms: The image encoder.
        prompt_ms: Prompts to logits.
        masks_ms: Logits to masks, in the form asked for.
        total_ms: The whole request.
        embedding_cached: Whether the embedding was already there.
        classify_ms: Pictures and concepts to scores.
        rewrite_ms: The language model that rewrites phrases.
        generate_ms: Words to a picture.
        track_ms: Frames and what is remembered of objects to logits.
    """

    queue_ms: float
    decode_ms: float
    detect_ms: float
    encode_ms: float
    prompt_ms: float
    masks_ms: float
    total_ms: float
    embedding_cached: bool
    classify_ms: float = 0.0
    rewrite_ms: float = 0.0
    generate_ms: float = 0.0
    track_ms: float = 0.0


@dataclass(frozen=True)
class Omission:
    """Masks that were made and left out, or phrases that were not asked.

    As text it is such as "12 below predicted_iou_threshold 0.8 (best 0.74)".

    Attributes:
        reason: "empty", "below_min_area", "duplicate" or "beyond_max_objects"; of everything also
            "below_predicted_iou", "below_stability" and "cut_off", by the edge of a crop; "same_phrase" of phrases.
        count: How many.
        prompt_indices: The prompts that they came from.
        threshold: What they did not reach, where that is the reason.
        best: The best value among them, likewise.
        same_as: The index of the phrase that they read like, and whose objects are theirs too.
    """

    reason: str
    count: int
    prompt_indices: tuple[int, ...]
    threshold: float | None = None
    best: float | None = None
    same_as: int | None = None

    def __str__(self) -> str:
        if self.same_as is not None:
            others = ", ".join(map(str, self.prompt_indices))
            return f"phrase {others}, which reads like phrase {self.same_as}"
        if self.threshold is None:
            return f"{self.count} {self.reason.replace('_', ' ')}"
        name = self.reason.removeprefix("below_")
        return f"{self.count} below {name}_threshold {self.threshold:.4g} (best {self.best:.4g})"


@dataclass(frozen=True)
class Answer:
    """What a `Segmentation` holds, under the same names, and what can be made of it without writing a file."""

    objects: tuple[SegmentedObject, ...]
    image: ImageInfo
    omissions: tuple[Omission, ...]
    models: tuple[str, ...]
    timings: Timings
    request_id: str
    overlay_file: bytes = field(repr=False)
    picture: Picture = field(repr=False, compare=False)
    concepts: Concepts | None = None
    rewriting: Rewriting | None = None
    cached: bool = False
    message: segmentation_pb2.Segmentation | None = field(default=None, repr=False, compare=False)

    def __iter__(self) -> Iterator[SegmentedObject]:
        return iter(self.objects)

    def __len__(self) -> int:
        return len(self.objects)

    def __getitem__(self, index: int) -> SegmentedObject:
        return self.objects[index]

    @property
    def masks(self) -> NDArray[np.bool_]:
        """(N, H, W) bool: every object's mask."""
        stack = np.zeros((len(self), self.image.height, self.image.width), np.bool_)
        for plane, each in zip(stack, self, strict=True):
            plane[:] = mask_of(each)
        return stack

    @property
    def boxes(self) -> NDArray[np.float32]:
        """(N, 4) float32: every object's box."""
        return np.array([each.box for each in self], np.float32).reshape(-1, 4)

    @property
    def labels(self) -> tuple[str, ...]:
        """Every object's label."""
        return tuple(each.label for each in self)

    @property
    def left_out(self) -> str:
        """The omissions in words; empty when there are none."""
        return "; ".join(map(str, self.omissions))

    @property
    def scores(self) -> NDArray[np.float32]:
        """(N,) float32: every object's score."""
        return np.array([each.score for each in self], np.float32)

    def overlay(self, picture: ImageLike | None = None) -> PIL.Image.Image:
        """The picture with masks, outlines and labels drawn on it.

        Args:
            picture: What to draw on. Default: the picture that was asked about; or, when it is on the server's side
                alone, the overlay that the server drew.

        Raises:
            ValueError: There is no picture here and the server was not asked for an overlay, or the sizes differ.
        """
        if picture is None and self.overlay_file and not self.picture.is_here:
            return PIL.Image.open(io.BytesIO(self.overlay_file))
        pixels = self._pixels(picture)
        return drawn(pixels, self.objects)

    def cutouts(self, picture: ImageLike | None = None) -> list[PIL.Image.Image]:
        """Each object alone: RGBA, cropped to its box, transparent outside of its mask.

        Args:
            picture: What to cut from. Default: the picture that was asked about.

        Raises:
            ValueError: There is no picture here, or the sizes differ.
        """
        pixels = self._pixels(picture)
        return [cut_out(pixels, found.box, mask_of(found)) for found in self]

    def _pixels(self, picture: ImageLike | None) -> NDArray[np.uint8]:
        pixels = (self.picture if picture is None else read_picture(picture)).rgb()
        if pixels.shape[:2] != (self.image.height, self.image.width):
            size = f"{pixels.shape[1]} x {pixels.shape[0]}"
            raise ValueError(f"the picture is {size}, the masks are {self.image.width} x {self.image.height} pixels")
        return pixels
