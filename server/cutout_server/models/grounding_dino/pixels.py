"""Pictures as Grounding DINO looks at them: as a processor of transformers says, or as the official package does."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor
from torchvision.transforms import functional  # type: ignore[import-untyped]
from transformers.image_transforms import get_size_with_aspect_ratio

from cutout_server.errors import FailedPreconditionError, InvalidRequestError
from cutout_server.types import RgbImage

Prepare = Callable[[RgbImage], Tensor]
Check = Callable[[tuple[int, int]], None]

_STEPS = ("do_resize", "do_rescale", "do_normalize")
# The official package's.
_SHORTEST, _LONGEST = 800, 1333
_MEAN, _STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]


def processor_pixels(images: Any, check: Check) -> Prepare:
    """As an image processor prepares pictures.

    Args:
        images: GroundingDinoImageProcessor, on torchvision or on Pillow.
        check: Refuses a size, (height, width) in pixels, that the model cannot look at.

    Raises:
        FailedPreconditionError: It leaves out what the model needs.
    """
    if not all(getattr(images, step) for step in _STEPS) or not images.size.longest_edge or images.pad_size:
        raise FailedPreconditionError(
            f"the image processor prepares pictures for another model: expected {', '.join(_STEPS)}, a size of "
            "shortest_edge and longest_edge, and no pad_size; download the whole folder"
        )

    def prepare(image: RgbImage) -> Tensor:
        check(get_size_with_aspect_ratio(image.shape[:2], images.size.shortest_edge, images.size.longest_edge))
        # A writeable copy, as torch takes no other; said to be channels last, as 3 pixels of height look like channels.
        pixels = np.array(image, order="C")
        answer = images([pixels], input_data_format="channels_last", do_pad=False, return_tensors="pt")
        values: Tensor = answer["pixel_values"]
        return values[0]

    return prepare


def official_pixels(check: Check) -> Prepare:
    """As the package's `load_image` does: bilinear resampling by Pillow.

    Args:
        check: Refuses a size, (height, width) in pixels, that the model cannot look at.
    """

    def prepare(image: RgbImage) -> Tensor:
        size = _official_size(*image.shape[:2])
        check(size)
        resized = functional.resize(Image.fromarray(image), list(size))
        values: Tensor = functional.normalize(functional.to_tensor(resized), _MEAN, _STD)
        return values

    return prepare


def _official_size(height: int, width: int) -> tuple[int, int]:
    """Its shorter side is rounded before the longer one follows from it; transformers does not round."""
    shorter, longer = sorted((height, width))
    size = _SHORTEST if longer / shorter * _SHORTEST <= _LONGEST else round(_LONGEST * shorter / longer)
    if shorter == size:
        return height, width
    return (int(size * height / width), size) if width < height else (size, int(size * width / height))


def room_for(queries: int, stride: int, levels: int) -> Check:
    """A check that a picture has a place for each query to start from; the reference breaks down without.

    Args:
        queries: Of the model.
        stride: Pixels from place to place at the finest level.
        levels: Each is half as fine as the one before it.
    """

    def check(size: tuple[int, int]) -> None:
        have = places(size, stride, levels)
        if have < queries:
            raise InvalidRequestError.of(
                "image",
                "expected a picture that is less narrow: the detector looks for objects in "
                f"{queries} places, and has {have} at {size[1]} x {size[0]} pixels",
            )

    return check


def places(size: tuple[int, int], stride: int, levels: int) -> int:
    """In how many places of all levels the model looks at a picture of this size, (height, width) in pixels."""
    sides = [stride * 2**level for level in range(levels)]
    return sum(math.ceil(size[0] / side) * math.ceil(size[1] / side) for side in sides)
