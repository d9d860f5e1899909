"""What models can do, and what they are made of."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path

import numpy as np
from numpy.typing import NDArray


class Task(Enum):
    """What a model can do."""

    SEGMENT = "segment"
    DETECT = "detect"
    EVERYTHING = "segment everything"
    SEGMENT_TEXT = "segment by text"
    CLASSIFY = "classify"
    GENERATE = "generate"
    TRACK = "track"


@dataclass(frozen=True)
class ModelFiles:
    """What a model is made of, on this machine.

    Attributes:
        checkpoint: A file, or a folder as `save_pretrained` writes it.
        config: The name of an architecture or a file that describes it, for families that need to be told.
        companions: Further files and folders, by the names that the family gives them.
    """

    checkpoint: Path | None = None
    config: str | None = None
    companions: Mapping[str, Path] = field(default_factory=dict)


Features = NDArray[np.float32]  # (D,) of unit length
