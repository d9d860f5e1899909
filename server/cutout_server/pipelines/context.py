"""What a request is worked on with: its models, their slots on devices, its image."""

import asyncio
from collections.abc import Callable, Mapping
from concurrent.futures import Executor
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TypeVar

from cutout_server import call_context
from cutout_server.catalogue import Catalogue, ModelSpec
from cutout_server.models.embedding import Embedding
from cutout_server.pipelines.concepts import Concepts
from cutout_server.pipelines.omissions import Omissions
from cutout_server.pipelines.rewrite import Rewriter
from cutout_server.pools.placement import Slot
from cutout_server.types import Picture, Task

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
class SelectedModels:
    """Which models a request needs.

    Attributes:
        segmenter: Makes its masks.
        beside: The others, by what they are for.
    """

    segmenter: ModelSpec
    beside: Mapping[Task, ModelSpec] = field(default_factory=dict)

    @property
    def names(self) -> tuple[str, ...]:
        """Of all."""
        return (self.segmenter.name, *(spec.name for spec in self.beside.values()))


@dataclass(frozen=True)
class Slots:
    """Where they run; one and the same slot as far as their devices allow."""

    segmenter: Slot
    beside: Mapping[Task, Slot]


@dataclass(frozen=True)
class EmbeddedImage:
    """An image whose embedding is kept at hand by whoever holds this."""

    image: Picture
    segmenter: ModelSpec
    embedding: Embedding
    device: str


@dataclass(frozen=True)
class Context:
    """A request at work.

    Attributes:
        shared: What it shares with all others.
        image: What it is about.
        models: Which ones it needs.
        slots: Where they run.
        embedded: Its image's embedding, where a session keeps that.
        omissions: What was left out so far.
    """

    shared: Shared
    image: Picture
    models: SelectedModels
    slots: Slots
    embedded: EmbeddedImage | None = None
    omissions: Omissions = field(default_factory=Omissions)

    async def embedding(self) -> Embedding:
        """The image's, by the segmenter."""
        slot = self.slots.segmenter
        if self.embedded is not None and self.embedded.device == slot.pool.device:
            call_context.current().stages.embedding_cached = True
            return self.embedded.embedding
        return await slot.embed(self.models.segmenter, self.image)

    def of_part(self, image: Picture) -> "Context":
        """The same, for a part of the image."""
        return replace(self, image=image, embedded=None)

    async def off_loop(self, work: Callable[..., T], *args: object) -> T:
        """Does work on pixels or masks, away from the event loop."""
        return await asyncio.get_running_loop().run_in_executor(self.shared.executor, partial(work, *args))
