"""What SAM 2 and its descendants remember of one object: a bounded value that forgets what no later frame asks for."""

from collections import defaultdict
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Self

from torch import Tensor

from cutout_server.models.embedding import own_memory
from cutout_server.models.queries import TrackQuery
from cutout_server.types import ObjectPrompt

PROMPTED_FRAMES = 8  # The first, which says what the object is, and the latest.
_OBJECTS_PER_STEP = {"cpu": 4}  # More would take more memory and gain hardly anything.
_OBJECTS_PER_STEP_ELSEWHERE = 16


@dataclass(frozen=True, eq=False)
class Look:
    """A frame in which the object was looked for. Each tensor has storage of its own.

    Attributes:
        features: The frame with the object's mask, in the model's own form; None once no frame attends to it.
        pointer: (1, C) float32, the decoder's token of the object.
        logits: (1, 1, h, w) float32, for corrections; None once the frame can be corrected no more, and where the model
            asks for none.
    """

    features: Tensor | None = field(repr=False)
    pointer: Tensor = field(repr=False)
    logits: Tensor | None = field(repr=False)

    @property
    def nbytes(self) -> int:
        """Memory that it holds, in bytes."""
        return sum(each.nbytes for each in (self.features, self.pointer, self.logits) if each is not None)

    def aged(self, *, features: bool, logits: bool) -> "Look":
        """The same with only what is still of use."""
        return Look(self.features if features else None, self.pointer, self.logits if logits else None)


@dataclass(frozen=True, eq=False)
class MemoryBank:
    """The memory bank of one object (https://arxiv.org/abs/2408.00714, section 4), by frame number.

    Attributes:
        prompted: Frames in which a prompt said what the object is; at most `PROMPTED_FRAMES`.
        followed: Recent frames in which it was found, or looked for in vain.
        attended: How many frames before a frame it attends to; 0 before the first answer.
        pointed: How many frames before a frame it takes the pointers of.
    """

    prompted: Mapping[int, Look] = field(default_factory=dict)
    followed: Mapping[int, Look] = field(default_factory=dict)
    attended: int = 0
    pointed: int = 0

    def __iter__(self) -> Iterator[Look]:
        yield from self.prompted.values()
        yield from self.followed.values()

    @property
    def nbytes(self) -> int:
        """Memory that it holds, in bytes."""
        return sum(look.nbytes for look in self)

    def grown(self, held_frames: int) -> int:
        """See `ObjectMemory.grown`."""
        whole = max(self, key=lambda look: look.nbytes)
        bare = whole.aged(features=False, logits=False).nbytes
        followed = max(self.attended, self.pointed) + held_frames
        with_features = len(self.prompted) + self.attended + held_frames
        features = whole.aged(features=True, logits=False).nbytes - bare
        logits = whole.aged(features=False, logits=True).nbytes - bare
        return (len(self.prompted) + followed) * bare + with_features * features + held_frames * logits

    def at(self, frame: int) -> Look | None:
        """What it holds of a frame."""
        return self.prompted.get(frame) or self.followed.get(frame)

    def with_look(self, frame: int, look: Look, *, prompted: bool) -> Self:
        """The same with a frame more, or with another look at one that it holds."""
        if prompted or frame in self.prompted:
            return replace(self, prompted={**self.prompted, frame: look})
        return replace(self, followed={**self.followed, frame: look})

    def trimmed(self, query: TrackQuery, attended: int, pointed: int) -> Self:
        """The same without what is of no use after a query.

        Args:
            query: It says which frames will be asked for again.
            attended: How many frames before a frame it attends to.
            pointed: How many frames before a frame it takes the pointers of.
        """
        numbers, oldest = sorted(self.prompted), query.age(query.oldest)
        beyond = numbers[1 : max(1, len(numbers) - PROMPTED_FRAMES + 1)]  # As the first stays.
        prompted = {n: look.aged(features=True, logits=query.age(n) <= oldest) for n, look in self.prompted.items()}
        followed = {**self.followed, **{n: prompted.pop(n) for n in beyond}}
        ages = {n: query.age(n) - oldest for n in followed}
        return replace(
            self,
            attended=attended,
            pointed=pointed,
            prompted=prompted,
            followed={
                n: look.aged(features=ages[n] <= attended, logits=ages[n] <= 0)
                for n, look in followed.items()
                if ages[n] <= max(attended, pointed)
            },
        )


def bank_of(query: TrackQuery) -> MemoryBank:
    """What the object's memory is, be it empty."""
    return MemoryBank() if query.memory is None else own_memory(query.memory, MemoryBank)


def alike(queries: Sequence[TrackQuery], device_type: str) -> Iterator[list[int]]:
    """Indices of queries that can share a step on such a device."""
    most = _OBJECTS_PER_STEP.get(device_type, _OBJECTS_PER_STEP_ELSEWHERE)
    groups: dict[Hashable, list[int]] = defaultdict(list)
    for index, query in enumerate(queries):
        memory, prompt = bank_of(query), query.prompt
        seen = memory.at(query.frame)
        form = (len(prompt.points), prompt.box is None) if isinstance(prompt, ObjectPrompt) else prompt is None
        correctable = seen is not None and seen.logits is not None
        when = (query.frame, query.frames, query.reverse)
        groups[id(query.embedding), when, form, correctable, tuple(memory.prompted), tuple(memory.followed)].append(
            index
        )
    for indices in groups.values():
        for start in range(0, len(indices), most):
            yield indices[start : start + most]
