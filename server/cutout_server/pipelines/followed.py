"""What a session keeps of an object that it follows."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Self

import cv2
import numpy as np

from cutout_server.models.embedding import ObjectMemory
from cutout_server.models.queries import Sighting, Tracked
from cutout_server.types import Logits


@dataclass(frozen=True, eq=False)
class Followed:
    """What the tracker remembers of an object, and how it was found in the frames that are held.

    The latter only where no two objects may share a pixel: there a correction of one is compared with all others as
    they were found in its frame.

    Attributes:
        memory: What the tracker is asked with next.
        sightings: By number of the frame.
        shape: (h, w) of the first sighting's logits. Those of no other take more, so that it is known from there on
            what all come to take.
    """

    memory: ObjectMemory
    sightings: Mapping[int, Sighting] = field(default_factory=dict)
    shape: tuple[int, int] = (0, 0)

    @property
    def nbytes(self) -> int:
        """Memory that it holds, in bytes."""
        return self.memory.nbytes + sum(each.logits.nbytes for each in self.sightings.values())

    def grown(self, held_frames: int) -> int:
        """See `ObjectMemory.grown`."""
        height, width = self.shape
        return self.memory.grown(held_frames) + held_frames * height * width * np.dtype(np.float32).itemsize

    def seen(self, frame: int, answer: Tracked, oldest: int) -> Self:
        """The same with what is remembered now, and with the object as it was found in a frame.

        Args:
            frame: Number of the frame.
            answer: What the tracker says of the object there.
            oldest: No frame before this one is asked for again.
        """
        kept = {number: each for number, each in self.sightings.items() if number >= oldest}
        height, width = answer.logits.shape
        shape = self.shape if self.sightings else (height, width)
        kept[frame] = Sighting(_no_larger(answer.logits, shape), answer.predicted_iou, answer.presence)
        return type(self)(answer.memory, kept, shape)


def _no_larger(logits: Logits, shape: tuple[int, int]) -> Logits:
    """(h, w) float32 of no more values than the shape has."""
    if logits.size <= shape[0] * shape[1]:
        return logits
    return np.asarray(cv2.resize(logits, shape[::-1], interpolation=cv2.INTER_AREA), np.float32)
