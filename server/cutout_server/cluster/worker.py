"""A worker: a device with its models, embeddings and queue, in a process of its own somewhere in the cluster."""

import asyncio
import os
import platform
import threading
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import cached_property, partial
from typing import Any

import structlog
from cutout_common import heap, logs, traces
from cutout_common.distribution import build

from cutout_server import call_context
from cutout_server.catalogue import Catalogue, ModelSpec
from cutout_server.cluster.messages import (
    Answered,
    Asked,
    LackingError,
    Remote,
    Seen,
    deadline,
    handles,
    with_embeddings,
    with_memory,
)
from cutout_server.daemon import in_daemon_thread
from cutout_server.models.devices import check_devices
from cutout_server.models.embedding import Embedding
from cutout_server.models.operations import DECODE, GENERATE, TRACK, Operation
from cutout_server.models.queries import CutQuery, GenerateQuery
from cutout_server.pools.device import DevicePool
from cutout_server.pools.embeddings import EmbeddingKey
from cutout_server.pools.fair_queue import Turn
from cutout_server.settings import Settings
from cutout_server.types import RgbImage

log = structlog.get_logger()

LEASE_S = 60.0  # A worker that no front has looked after for so long ends itself.
HEARD = 10_000  # Of what its observer heard, so much is kept until a front asks.


class Worker:
    """Becomes an actor. Several fronts may ask it; each admits its own requests, and here they wait in one queue.

    Args:
        settings: The front's, as far as they are about models.
        spare_s: Seconds without a question after which it ends itself; 0 for never.
        expected: Which build of Cutout the front is.

    Raises:
        RuntimeError: This machine has another one.
    """

    def __init__(self, settings: Settings, spare_s: float, expected: Mapping[str, str]) -> None:
        if build() != expected:
            raise RuntimeError(f"this node has Cutout {build()}, the front has {expected}: install the same on both")
        heap.keep_freed()
        logs.configure(settings.log_format, settings.log_level)
        check_devices(settings.devices)
        self._settings = settings
        self._spare_s = spare_s
        self._catalogue = Catalogue.of(settings)
        self._tracer = traces.tracer_of("cutout-worker", settings.trace_endpoint, settings.trace_share)
        self._heard: list[tuple[str, tuple[Any, ...]]] = []
        self._steps: dict[str, int] = {}
        self._in_hand = 0  # Questions.
        self._opening: asyncio.Task[DevicePool] | None = None
        self._opened: DevicePool | None = None
        self._looked_s = self._asked_s = time.monotonic()
        self._ended = threading.Event()
        # Also one that found its node when nobody wanted it any more. There is no event loop yet.
        threading.Thread(target=self._end, name="end", daemon=True).start()

    async def look(self) -> Seen:
        """How it is; the first time, once its models are loaded. What prevents that is tried again at the next look."""
        if self._opening is None or (self._opening.done() and self._opening.exception()):
            self._opening = asyncio.create_task(self._open())
        pool = await asyncio.shield(self._opening)
        self._looked_s = time.monotonic()
        heard, self._heard = self._heard, []
        return Seen(
            platform.node(),
            pool.models.sizes(),
            dict(pool.models.loads),
            pool.models.runtimes(),
            pool.queued_jobs,
            pool.jobs,
            pool.batches,
            pool.memory(),
            heard,
        )

    async def embed(self, asked: Asked, key: EmbeddingKey, pixels: Mapping[EmbeddingKey, Any]) -> Answered:
        """Makes a picture's embedding unless it is at hand."""
        async with self._turn(asked, key.operation.stage) as (spec, turn):
            return self._answered((), {key: await self._embedding(key, spec, turn, pixels[key])})

    async def cut(self, asked: Asked, queries: Sequence[CutQuery], pixels: Mapping[EmbeddingKey, Any]) -> Answered:
        """Masks, see Pool.

        Raises:
            LackingError: See `ask`.
        """
        async with self._turn(asked, DECODE.stage) as (spec, turn):
            whole, held = await self._whole(queries, spec, turn, pixels)
            return self._answered(await self._pool.cut(turn, spec, whole, deadline_s=deadline(asked.left_s)), held)

    async def ask(
        self,
        asked: Asked,
        operation: Operation[Any, Any],
        questions: Sequence[Any],
        pixels: Mapping[EmbeddingKey, Any],
    ) -> Answered | tuple[Any, ...]:
        """Answers. What a tracker remembers comes behind them, one by one, so that it stays in the object store.

        Raises:
            LackingError: An embedding is not at hand, and its pixels are not given.
        """
        async with self._turn(asked, operation.stage) as (spec, turn):
            whole, held = await self._whole(questions, spec, turn, pixels)
            if operation is TRACK:
                whole = [await _with_own_memory(question) for question in whole]
            answers = await self._pool.ask(turn, operation, spec, whole, deadline_s=deadline(asked.left_s))
            if operation is not TRACK:
                return self._answered(answers, held)
            light = [with_memory(answer, Remote.of(answer.memory)) for answer in answers]
            return self._answered(light, held), *(answer.memory for answer in answers)

    async def generate(self, asked: Asked, query: GenerateQuery, name: str) -> Answered:
        """A picture, of which `steps` tells by this name how far it is. Cancelled, it ends at its next step."""
        abandoned = threading.Event()
        watched = replace(query, progress=partial(self._steps.__setitem__, name), cancelled=abandoned.is_set)
        try:
            async with self._turn(asked, GENERATE.stage) as (spec, turn):
                return self._answered(
                    await self._pool.ask(turn, GENERATE, spec, [watched], deadline_s=deadline(asked.left_s)), {}
                )
        finally:
            abandoned.set()
            self._steps.pop(name, None)

    async def steps(self, name: str) -> int:
        """How many steps of a picture are done."""
        return self._steps.get(name, 0)

    async def load(self, model: str) -> Seen:
        """Loads a model."""
        await self._pool.load(self._catalogue.get(model))
        return await self.look()

    async def unload(self, model: str) -> Seen:
        """Unloads a model."""
        await self._pool.unload(model)
        return await self.look()

    def waited(self, device: str, seconds: float) -> None:
        """See PoolObserver."""
        self._hear("waited", device, seconds)

    def batched(self, device: str, operation: str, size: int) -> None:
        """See PoolObserver."""
        self._hear("batched", device, operation, size)

    def dropped(self, device: str, why: str) -> None:
        """See PoolObserver."""
        self._hear("dropped", device, why)

    def _hear(self, method: str, *args: Any) -> None:
        if len(self._heard) < HEARD:
            self._heard.append((method, args))

    @cached_property
    def _pool(self) -> DevicePool:
        return DevicePool.of(self._settings.devices[0], self._settings, self)

    async def _open(self) -> DevicePool:
        for spec in self._catalogue.specs.values():
            await in_daemon_thread(spec.fetch, f"fetch-{spec.name}")
            if self._settings.preload:
                await self._pool.load(spec)
        self._opened = self._pool
        return self._pool

    def _end(self) -> None:
        """Ends the process once it is of no use: what waits for it is asked elsewhere, as when it is killed."""
        while not self._ended.wait(1.0):
            now_s = time.monotonic()
            if self._opening is not None and not self._opening.done():
                self._looked_s = self._asked_s = now_s
            if self._in_hand:
                self._asked_s = now_s
            if now_s - self._looked_s > LEASE_S or 0 < self._spare_s < now_s - self._asked_s:
                log.info("worker ends, as it is not needed")
                self._tracer.close()
                os._exit(0)
            if self._hangs(now_s):
                log.error("worker ends, as its device does not", longest_s=self._settings.max_deadline_s)
                os._exit(1)

    def _hangs(self, now_s: float) -> bool:
        """Whether a pass has lasted longer than any call may, so that nobody waits for it but those behind it."""
        began_s = self._opened.pass_began_s if self._opened else None
        return began_s is not None and now_s - began_s > self._settings.max_deadline_s

    @asynccontextmanager
    async def _turn(self, asked: Asked, stage: str) -> AsyncIterator[tuple[ModelSpec, Turn]]:
        """A place in the queue for a question, with a span; the front has admitted its request."""
        self._in_hand += 1
        for key in asked.forgotten:
            self._pool.forget(key)
        span = self._tracer.begin(f"worker/{stage}", asked.traceparent)
        call_context.begin(call_context.Call(asked.request_id, "", deadline(asked.left_s), span=span))
        turn = self._pool.fair_queue.take(asked.party, deadline(asked.turn_left_s))
        try:
            yield self._catalogue.get(asked.model), turn
        finally:
            self._pool.fair_queue.give_back(turn)
            span.end(cutout__request_id=asked.request_id, node=platform.node())
            self._in_hand -= 1
            self._asked_s = time.monotonic()

    async def _whole(
        self, questions: Sequence[Any], spec: ModelSpec, turn: Turn, pixels: Mapping[EmbeddingKey, Any]
    ) -> tuple[list[Any], dict[EmbeddingKey, Embedding]]:
        """The questions with embeddings in the places of handles, and those embeddings."""
        keys = {handle.key for handle in handles(questions)}
        held = {key: await self._embedding(key, spec, turn, pixels.get(key)) for key in keys}
        return [with_embeddings(question, held) for question in questions], held

    async def _embedding(self, key: EmbeddingKey, spec: ModelSpec, turn: Turn, pixels: Any) -> Embedding:
        cache = self._pool.embeddings
        if pixels is None and not cache.holds(key):
            raise LackingError

        async def encode() -> Embedding:
            picture: RgbImage = await pixels
            # Others may wait for it too, with deadlines of their own: cancelling is what ends it.
            return (await self._pool.ask(turn, key.operation, spec, [picture], deadline_s=float("inf")))[0]

        waits, started_s = key not in cache, time.monotonic()
        embedding, joined = await cache.get(key, encode)
        if waits and joined:  # For what another question has begun.
            call_context.spent(key.operation.stage, started_s)
        return embedding

    def _answered(self, answers: Sequence[Any], embeddings: Mapping[EmbeddingKey, Embedding]) -> Answered:
        stages_s = {stage: ms / 1000 for stage, ms in call_context.current().stages.ms.items()}
        return Answered(answers, stages_s, {key: embedding.nbytes for key, embedding in embeddings.items()})


async def _with_own_memory(question: Any) -> Any:
    """A question of a tracker with what is remembered itself in the place of what stands for it."""
    return with_memory(question, await question.memory.ref) if isinstance(question.memory, Remote) else question
