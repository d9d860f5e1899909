"""What a request is worked on with: its plan, slots on devices, its image, and a count of what was left out."""

import asyncio
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TypeVar

from cutout_server import call_context
from cutout_server.catalogue import Catalogue, ModelSpec
from cutout_server.models.embedding import Embedding
from cutout_server.pipelines.concepts import Concepts
from cutout_server.pipelines.rewrite import Rewriter
from cutout_server.pools.placement import Slot
from cutout_server.types import Omission, OmissionReason, Picture, Task

T = TypeVar("T")


@dataclass(frozen=True)
class Shared:
    """What all requests share.

    Attributes:
        catalogue: The models.
        executor: Where pixels and masks are worked on.
        rewriter: The operator's language model; None when there is none.
        concepts: Compares images with texts.
        max_tiles: Most tiles of one request.
    """

    catalogue: Catalogue
    executor: Executor
    rewriter: Rewriter | None
    concepts: Concepts
    max_tiles: int


@dataclass(frozen=True)
class Plan:
    """What is known of a request before its image is there.

    Attributes:
        segmenter: The model that makes its masks.
        beside: The other models that it needs, by what they are for.
        needs_pixels: Whether the image's embedding alone does not do.
        keeps_order: Whether objects come in their prompts' order, and may leave as they are made; else the best come
            first.
        default_nms_iou: For requests that name none; 1 keeps all.
    """

    segmenter: ModelSpec
    beside: Mapping[Task, ModelSpec] = field(default_factory=dict)
    needs_pixels: bool = True
    keeps_order: bool = False
    default_nms_iou: float = 1.0

    @property
    def model_names(self) -> tuple[str, ...]:
        """The names of all models."""
        return (self.segmenter.name, *(spec.name for spec in self.beside.values()))


@dataclass(frozen=True)
class Slots:
    """Where the models run; one and the same slot as far as their devices allow."""

    segmenter: Slot
    beside: Mapping[Task, Slot]


@dataclass(frozen=True)
class EmbeddedImage:
    """An image whose embedding is kept at hand by whoever holds this."""

    image: Picture
    segmenter: ModelSpec
    embedding: Embedding
    device: str


class Omissions:
    """Counts what is left out, so that nothing is in silence."""

    def __init__(self) -> None:
        self._counts: dict[OmissionReason, Counter[int]] = defaultdict(Counter)  # By prompt.
        self._same: dict[int, Counter[int]] = defaultdict(Counter)  # By the phrase that others read like.
        self._below: dict[OmissionReason, tuple[float, float]] = {}  # A threshold, and the best value below it.

    def add(self, reason: OmissionReason, prompt_index: int, count: int = 1) -> None:
        """Masks of a prompt were left out."""
        if count:
            self._counts[reason][prompt_index] += count

    def below(self, reason: OmissionReason, threshold: float, values: Sequence[float]) -> None:
        """Masks of everything were left out, one for each value that does not reach a threshold."""
        if values:
            self.add(reason, 0, len(values))
            self._note(reason, threshold, max(values))

    def same(self, prompt_index: int, same_as: int) -> None:
        """A phrase was not asked, since it reads like another."""
        self._same[same_as][prompt_index] += 1

    def all(self) -> tuple[Omission, ...]:
        """In the order of the reasons; one for each phrase that others read like."""
        masks = (
            Omission(
                reason,
                self._counts[reason].total(),
                tuple(sorted(self._counts[reason])),
                *self._below.get(reason, ()),
            )
            for reason in OmissionReason
            if reason in self._counts
        )
        phrases = (
            Omission(OmissionReason.SAME_PHRASE, counts.total(), tuple(sorted(counts)), same_as=same_as)
            for same_as, counts in sorted(self._same.items())
        )
        return (*masks, *phrases)

    def _note(self, reason: OmissionReason, threshold: float, best: float) -> None:
        self._below[reason] = threshold, max(best, self._below.get(reason, (threshold, best))[1])


@dataclass(frozen=True)
class Context:
    """A request at work.

    Attributes:
        shared: What it shares with all others.
        image: What it is about.
        plan: Which models it needs, and what its kind has decided.
        slots: Where the models run.
        embedded: Its image's embedding, where a session keeps that.
        omissions: What was left out so far.
    """

    shared: Shared
    image: Picture
    plan: Plan
    slots: Slots
    embedded: EmbeddedImage | None = None
    omissions: Omissions = field(default_factory=Omissions)

    async def embedding(self) -> Embedding:
        """The image's, by the segmenter."""
        slot = self.slots.segmenter
        if self.embedded is not None and self.embedded.device == slot.pool.device:
            call_context.current().stages.embedding_cached = True
            return self.embedded.embedding
        return await slot.embedding(self.plan.segmenter, self.image)

    def of_part(self, image: Picture) -> "Context":
        """The same, for a part of the image."""
        return replace(self, image=image, embedded=None)

    async def off_loop(self, work: Callable[..., T], *args: object) -> T:
        """Does work on pixels or masks, away from the event loop."""
        return await asyncio.get_running_loop().run_in_executor(self.shared.executor, partial(work, *args))
