"""From words to pictures, one at a time, with progress on the way."""

import asyncio
import threading
from collections.abc import AsyncGenerator
from concurrent.futures import Executor
from contextlib import aclosing
from typing import Any

from cutout_common import overlay

from cutout_server import call_context
from cutout_server.catalogue import Catalogue, ModelSpec
from cutout_server.models.operations import GENERATE
from cutout_server.models.queries import GenerateQuery
from cutout_server.pools.placement import Pools, Slot
from cutout_server.types import (
    GeneratedPicture,
    GenerateRequest,
    GenerationProgress,
    OverlayFormat,
    RgbImage,
    Task,
)

SEEDS = 2**64
OWN_SIDE = 1024  # What a generator's own size counts for, before it is known.


class GeneratePipeline:
    """Makes pictures. Between two of them whoever came meanwhile has a turn on the device."""

    def __init__(self, catalogue: Catalogue, pools: Pools, executor: Executor) -> None:
        self._catalogue = catalogue
        self._pools = pools
        self._executor = executor

    def choose(self, name: str) -> ModelSpec:
        """The generator that a request named, or the default.

        Raises:
            FailedPreconditionError: There is none at all.
            InvalidRequestError: There is none of that name.
        """
        return self._catalogue.choose(name, Task.GENERATE, "generator")

    async def make(self, request: GenerateRequest) -> AsyncGenerator[GenerationProgress | GeneratedPicture]:
        """For each prompt in turn: its steps, then its picture, which is not begun before the last one was taken.

        Whoever closes the generator ends the pass that is under way at its next step.

        Raises:
            CutoutError: The devices are full, the caller's quota is used up, the deadline has passed, or the generator
                cannot make such a picture.
        """
        generator = self.choose(request.generator)
        each = (request.width or OWN_SIDE) * (request.height or OWN_SIDE)
        call_context.current().account.read(len(request.prompts) * each)
        async with self._pools.slot(generator) as slot:
            for index in range(len(request.prompts)):
                async with aclosing(self._one(slot, generator, request, index)) as events:
                    async for event in events:
                        yield event

    async def _one(
        self, slot: Slot, generator: ModelSpec, request: GenerateRequest, index: int
    ) -> AsyncGenerator[GenerationProgress | GeneratedPicture]:
        loop = asyncio.get_running_loop()
        steps: asyncio.Queue[int | None] = asyncio.Queue()  # Holds no more than the request's steps.
        abandoned = threading.Event()
        query = GenerateQuery(
            prompt=request.prompts[index],
            negative_prompt=request.negative_prompt,
            width=request.width,
            height=request.height,
            steps=request.steps,
            guidance=request.guidance,
            seed=(request.seed + index) % SEEDS,
            progress=lambda step: _tell(loop, steps, step),
            cancelled=abandoned.is_set,
        )

        def finish(asked: asyncio.Task[RgbImage]) -> None:
            steps.put_nowait(None)
            if not asked.cancelled():
                asked.exception()  # Seen, so that asyncio does not complain when nobody waits for it any more.

        asked = asyncio.ensure_future(slot.ask(GENERATE, generator, query))
        asked.add_done_callback(finish)
        try:
            while (step := await steps.get()) is not None:
                yield GenerationProgress(index, step, request.steps)
            pixels = await asked
        finally:
            abandoned.set()
            asked.cancel()
        with call_context.stage("generate"):
            encode = overlay.encode_png if request.file_format is OverlayFormat.PNG else overlay.encode_jpeg
            data = await loop.run_in_executor(self._executor, encode, pixels)
        yield GeneratedPicture(index, query.seed, pixels, request.file_format.value, data)


def _tell(loop: asyncio.AbstractEventLoop, steps: asyncio.Queue[Any], step: int) -> None:
    loop.call_soon_threadsafe(steps.put_nowait, step)
