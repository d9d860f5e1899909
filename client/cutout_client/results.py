"""What callers get."""

import io
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import Any, Literal

import numpy as np
import PIL.Image
from cutout.v1 import segmentation_pb2
from numpy.typing import NDArray

from cutout_client.coco import CocoDataset
from cutout_client.concepts import Concepts, Rewriting
from cutout_client.drawing import cut_out, drawn, ground_of
from cutout_client.images import ImageLike, Picture, read_picture
from cutout_client.notebooks import Shown
from cutout_client.objects import SegmentedObject, mask_of
from cutout_client.saving import save


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
class Segmentation(Shown):
    """An answer: a sequence of its objects.

    Attributes:
        objects: Sorted by prompt for boxes and points, by score otherwise; empty when nothing was found.
        image: The picture as the server saw it.
        omissions: What was made and left out.
        models: Names of the models that made it, in the order in which they ran.
        timings: Where the time went.
        request_id: The id under which the server logged the call.
        overlay_file: The picture with everything drawn on it by the server, when that was asked for; else empty.
        picture: What was asked about.
        concepts: What the whole picture shows; from `analyze` alone.
        rewriting: What became of the phrases; None unless the request asked for rewriting.
        cached: Whether it was made for an equal request before; the server keeps answers only if it was set up to.
        message: The answer as it came, when it came whole.
    """

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
        return [cut_out(pixels, each) for each in self]

    def save(
        self, folder: str | PathLike[str], formats: Iterable[str] = ("overlay", "png"), *, name: str = ""
    ) -> list[Path]:
        """Writes files into a folder, which is made when it is missing.

        Args:
            folder: Where to.
            formats: Any of "overlay" (the picture with everything drawn on it), "png" (a mask for each object),
                "cutouts" (each object on a transparent ground), "rle", "polygons", "coco" (JSON), "npz" (arrays), or of
                `exports.EXPORTS`, of which each is a folder in another tool's form.
            name: How the files' names begin. Default: the picture file's own name, or "picture".

        Returns:
            The files.

        Raises:
            ValueError: A format is unknown, or needs what is not here: a picture, or outlines.
        """
        return save(self, Path(folder), formats, name or self.picture.name)

    def to_coco(self) -> list[dict[str, Any]]:
        """The objects as COCO annotations: RLE, [x, y, width, height], area, score; categories as labels come up.

        `CocoDataset` joins several pictures, and names their categories.
        """
        return CocoDataset().add(self.picture.name, self)

    def to_supervision(self) -> Any:
        """`supervision.Detections` with masks; needs the package supervision.

        Classes are numbered as labels come up; where the version of supervision has `data`, `class_name` is there.
        """
        from cutout_client.exports.supervision import to_supervision  # noqa: PLC0415 - optional

        return to_supervision(self)

    def to_fiftyone(self, file: str | PathLike[str], field: str = "cutout") -> Any:
        """A `fiftyone.Sample` with the objects as detections with instance masks; needs the package fiftyone.

        Args:
            file: The picture, where FiftyOne is to read it.
            field: The sample's field that they go into.
        """
        from cutout_client.exports.fiftyone import to_fiftyone  # noqa: PLC0415 - optional

        return to_fiftyone(self, file, field)

    def to_geojson(self) -> dict[str, Any]:
        """The objects as a GeoJSON FeatureCollection, in pixels: x to the right, y down.

        Raises:
            ValueError: There are no polygons: they come by `mask_formats=["rle", "polygons"]`.
        """
        from cutout_client.exports.geojson import to_geojson  # noqa: PLC0415 - optional

        return to_geojson(self)

    def to_label_map(self, by: Literal["class", "object"] = "class") -> NDArray[np.int32]:
        """(H, W) int32: 0 for the ground, else from 1 on the number of the class, as labels come up, or of the object.

        Where objects overlap the smallest is in front.
        """
        from cutout_client.exports.label_map import label_map  # noqa: PLC0415 - optional

        return label_map(self, by)

    def _shown(self) -> tuple[PIL.Image.Image, Sequence[SegmentedObject], str]:
        if self.overlay_file and not self.picture.is_here:
            image = self.overlay()
        else:
            image = drawn(ground_of(self.picture, (self.image.height, self.image.width)), self.objects)
        found = "" if self.objects else "nothing found"
        left_out = f"left out: {self.left_out}" if self.omissions else ""
        return image, self.objects, "; ".join(filter(None, (found, left_out)))

    def _pixels(self, picture: ImageLike | None) -> NDArray[np.uint8]:
        pixels = (self.picture if picture is None else read_picture(picture)).rgb()
        if pixels.shape[:2] != (self.image.height, self.image.width):
            size = f"{pixels.shape[1]} x {pixels.shape[0]}"
            raise ValueError(f"the picture is {size}, the masks are {self.image.width} x {self.image.height} pixels")
        return pixels
