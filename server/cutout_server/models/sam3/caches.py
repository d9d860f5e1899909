"""transformers' caches, which keep parts of a model, and what it last made, on the device when the model is gone."""

import inspect
from functools import partial
from typing import Any

from cutout_server.models.positions import Positions


def bypass(detector: Any) -> None:
    """Lets the detector compute each time what is cached for all models together; it costs little.

    Args:
        detector: A `Sam3Model`. Its answers stay the same.
    """
    neck, decoder = detector.vision_encoder.neck, detector.detr_decoder
    neck.position_encoding = Positions(neck.position_encoding)
    # The method takes nothing from its object, which the cache would keep.
    decoder._get_coords = partial(inspect.unwrap(type(decoder)._get_coords), None)  # noqa: SLF001 - it is no API
