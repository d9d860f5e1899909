"""The front's side of a worker: what a pool of this process offers, asked for over Ray."""

import asyncio
import itertools
import time
import uuid
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, NoReturn

import ray
from ray.exceptions import ObjectLostError, RayActorError, RayTaskError, TaskCancelledError

from cutout_server import call_context
from cutout_server.catalogue import ModelSpec
from cutout_server.cluster.messages import (
    Answered,
    Asked,
    Handle,
    LackingError,
    Seen,
    handles,
    left,
    with_memory,
)
from cutout_server.cluster.pixels import Pixels
from cutout_server.errors import CutoutError, UnavailableError
from cutout_server.models.operations import EMBED_PICTURES, GENERATE, TRACK, Answer, Operation, Query
from cutout_server.models.queries import CutMask, CutQuery
from cutout_server.models.runtime import Runtime
from cutout_server.pools.device import PoolObserver
from cutout_server.pools.embeddings import EmbeddingKey
from cutout_server.pools.fair_queue import Turn
from cutout_server.pools.models import LoadedModels
from cutout_server.pools.placement import embedding_key
from cutout_server.pools.pool import Pool
from cutout_server.types import Picture

_parts = itertools.count()
STEPS_S = 0.2  # After so long a worker is asked again how far a picture is.


class WorkerLostError(UnavailableError):
    """A worker is gone, or does not answer, while it has a question. Only what is about that very worker ends with it.

    Attributes:
        pool: Which one.
        had_it: Whether it may have begun with the question.
        died: Whether it is gone, which it may be because of the question; else its network may be to blame.
    """

    def __init__(self, pool: "WorkerPool", *, had_it: bool, died: bool) -> None:
        super().__init__(f"{pool.device} is lost; another one begins", retry_after_s=1.0, reason="NO_WORKERS")
        self.pool = pool
        self.had_it = had_it
        self.died = died


class SeenModels(LoadedModels):
    """The models that a worker holds, as it was seen last. Sessions remember nothing on its device."""

    def __init__(self, device: str, budget_bytes: int) -> None:
        super().__init__(device, budget_bytes, lambda _: None)
        self.seen: dict[str, int] = {}
        self.seen_runtimes: dict[str, Runtime] = {}

    def sizes(self) -> dict[str, int]:
        """See LoadedModels."""
        return self.seen

    def runtimes(self) -> dict[str, Runtime]:
        """See LoadedModels."""
        return self.seen_runtimes

    def fits(self, nbytes: int) -> bool:
        """What sessions remember lies in the cluster's object store."""
        return True


class WorkerPool(Pool):
    """One life of a worker. When it is lost, what it is asked ends with a WorkerLostError."""

    def __init__(
        self,
        name: str,
        actor: Any,
        pixels: Pixels,
        observer: PoolObserver,
        *,
        capacity: int,
        memory_budget_bytes: int,
        embeddings_cache_bytes: int,
    ) -> None:
        models = self._seen_models = SeenModels(name, memory_budget_bytes)
        super().__init__(name, models, capacity=capacity, embeddings_cache_bytes=embeddings_cache_bytes)
        self._actor = actor
        self._pixels = pixels
        self._observer = observer
        self._queued_jobs = 0
        self._memory = (0, 0)
        self._forgotten: list[EmbeddingKey] = []
        self._gone: asyncio.Future[bool] = asyncio.get_running_loop().create_future()

    @property
    def queued_jobs(self) -> int:
        """See Pool."""
        return self._queued_jobs

    def memory(self) -> tuple[int, int]:
        """See Pool."""
        return self._memory

    def saw(self, seen: Seen) -> None:
        """Takes in how the worker is."""
        models = self._seen_models
        left_models = models.seen.keys() - seen.models.keys()
        models.seen, models.seen_runtimes, models.loads = seen.models, seen.runtimes, seen.loads
        self._queued_jobs, self.jobs, self.batches, self._memory = (
            seen.queued_jobs,
            seen.jobs,
            seen.batches,
            seen.memory,
        )
        for method, args in seen.heard:
            getattr(self._observer, method)(self.device, *args[1:])
        for model in left_models:
            for forget in self.on_unload:
                forget(model)

    async def look(self) -> None:
        """Asks the worker how it is.

        Raises:
            WorkerLostError: It does not say.
        """
        self.saw(await self._said(self._actor.look.remote()))

    def lost(self, *, died: bool) -> None:
        """Ends what the worker is asked: it is gone, or does not answer any more."""
        if not self._gone.done():
            self._gone.set_result(died)

    async def embed(
        self, turn: Turn, key: EmbeddingKey, spec: ModelSpec, picture: Picture, *, deadline_s: float
    ) -> Handle:
        """What stands for a picture's embedding, which is made unless the worker has it."""
        pixels = {key: await self._pixels.of(key, picture)}
        call = self._actor.embed.remote(self._asked(turn, spec, deadline_s), key, pixels)
        answered = await self._answered(call, spec)
        return Handle(key, (picture.height, picture.width), answered.embeddings[key])

    async def ask(
        self,
        turn: Turn,
        operation: Operation[Query, Answer],
        spec: ModelSpec,
        questions: Sequence[Query],
        *,
        deadline_s: float,
    ) -> list[Answer]:
        """See Pool.

        Raises:
            WorkerLostError: The worker was lost with it.
        """
        if operation.makes_embeddings:
            return [await self._part(turn, operation, spec, question, deadline_s) for question in questions]
        if operation is GENERATE:
            return [await self._generated(turn, spec, question, deadline_s) for question in questions]
        remembers = operation is TRACK
        ask = self._actor.ask.options(num_returns=1 + len(questions) * remembers)

        async def send(pixels: Mapping[EmbeddingKey, Any]) -> Sequence[Any]:
            asked = partial(ask.remote, self._asked(turn, spec, deadline_s), operation, list(questions), pixels)
            # Pictures take time to be copied.
            returned = await asyncio.to_thread(asked) if operation is EMBED_PICTURES else asked()
            return returned if remembers else [returned]

        answers, memories = await self._embedded(spec, questions, send)
        if remembers:
            pairs = zip(answers, memories, strict=True)
            answers = [with_memory(answer, replace(answer.memory, ref=ref)) for answer, ref in pairs]
        return answers

    async def cut(
        self, turn: Turn, spec: ModelSpec, queries: Sequence[CutQuery], *, deadline_s: float
    ) -> list[list[CutMask]]:
        """See Pool; the worker is asked once for all.

        Raises:
            WorkerLostError: See `ask`.
        """

        async def send(pixels: Mapping[EmbeddingKey, Any]) -> Sequence[Any]:
            return [self._actor.cut.remote(self._asked(turn, spec, deadline_s), list(queries), pixels)]

        return (await self._embedded(spec, queries, send))[0]

    def forget(self, key: EmbeddingKey) -> None:
        """See Pool; the worker is told with the next question."""
        super().forget(key)
        self._forgotten.append(key)

    async def load(self, spec: ModelSpec) -> None:
        """See Pool."""
        self.saw(await self._said(self._actor.load.remote(spec.name)))

    async def unload(self, name: str) -> None:
        """See Pool."""
        self.saw(await self._said(self._actor.unload.remote(name)))

    async def make_room(self) -> None:
        """See Pool; sessions take none of the device's."""

    async def close(self) -> None:
        """See Pool; the worker is not this front's alone."""
        self.lost(died=False)

    async def _embedded(
        self,
        spec: ModelSpec,
        questions: Sequence[Any],
        send: Callable[[Mapping[EmbeddingKey, Any]], Awaitable[Sequence[Any]]],
    ) -> tuple[list[Any], Sequence[Any]]:
        """Answers to questions about embeddings, and what came behind them.

        Args:
            spec: The model that is asked.
            questions: With handles in the embeddings' places.
            send: Sends them with the pixels of those that the worker may lack, which it then makes.
        """
        needed = {handle.key: handle for handle in handles(questions)}
        lacking = [key for key in needed if key not in self.embeddings]
        while True:
            call, *behind = await send({key: await self._pixels.of(key, _picture(needed[key])) for key in lacking})
            try:
                answered = await self._answered(call, spec)
            except LackingError:
                if len(lacking) == len(needed):
                    raise
                lacking = list(needed)
            else:
                break
        for key, nbytes in answered.embeddings.items():
            self.embeddings.keep(key, Handle(key, needed[key].image_size, nbytes))
        return list(answered.answers), behind

    async def _part(self, turn: Turn, operation: Any, spec: ModelSpec, pixels: Any, deadline_s: float) -> Any:
        """The embedding of a part of a picture, which nobody else asks for."""
        picture = Picture.of(pixels, f"part-{next(_parts)}-{id(self)}")
        key = embedding_key(spec, picture.key, operation)
        return replace(await self.embed(turn, key, spec, picture, deadline_s=deadline_s), picture=picture)

    async def _generated(self, turn: Turn, spec: ModelSpec, query: Any, deadline_s: float) -> Any:
        """A picture, whose steps are told as they are seen to be done; all of them in the end."""
        name, told = uuid.uuid4().hex, 0

        async def tell() -> None:
            nonlocal told
            while True:
                await asyncio.sleep(STEPS_S)
                for step in range(told + 1, await self._actor.steps.remote(name) + 1):
                    query.progress(told := step)

        # What it calls is here.
        bare = replace(query, progress=_nothing, cancelled=_nothing)
        telling = asyncio.create_task(tell())
        try:
            call = self._actor.generate.remote(self._asked(turn, spec, deadline_s), bare, name)
            answered = await self._answered(call, spec)
        finally:
            telling.cancel()
            await asyncio.gather(telling, return_exceptions=True)
        for step in range(told + 1, query.steps + 1):
            query.progress(step)
        return answered.answers[0]

    def _asked(self, turn: Turn, spec: ModelSpec, deadline_s: float) -> Asked:
        """What goes with a question that is sent now."""
        call = call_context.current()
        lefts_s = left(deadline_s), left(turn.deadline_s)
        forgotten, self._forgotten = self._forgotten, []
        return Asked(spec.name, call.request_id, turn.caller, *lefts_s, call.span.traceparent, forgotten)

    async def _answered(self, call: Any, spec: ModelSpec) -> Answered:
        """What the worker answers, its time counted to the current call: what is on the way waits, too."""
        asked_s = time.monotonic()
        answered: Answered = await self._said(call)
        stages = dict(answered.stages_s)
        stages["queue"] = max(0.0, time.monotonic() - asked_s - sum(s for name, s in stages.items() if name != "queue"))
        current = call_context.current()
        for stage, seconds in stages.items():
            current.stages.add(stage, seconds)
        # The worker tells of its stages itself, below the same span.
        current.span.part("worker", asked_s, time.monotonic(), device=self.device, model=spec.name)
        return answered

    async def _said(self, call: Any) -> Any:
        """What a call of the worker gives. It is cancelled there when it is cancelled here."""
        had_it = not self._gone.done()
        answer = asyncio.ensure_future(_result(call))
        try:
            await asyncio.wait({answer, self._gone}, return_when=asyncio.FIRST_COMPLETED)
            if not answer.done():
                raise WorkerLostError(self, had_it=had_it, died=self._gone.result())
            return answer.result()
        except RayTaskError as error:  # First, as it is of its cause's class, too.
            _raise_cause(error)
        except (RayActorError, ObjectLostError, TaskCancelledError) as error:
            raise WorkerLostError(self, had_it=had_it, died=True) from error
        finally:
            if not answer.done():
                answer.cancel()
                ray.cancel(call)


def _nothing(*_: object) -> bool:
    """Stands for what cannot cross."""
    return False


async def _result(call: Any) -> Any:
    return await call


def _raise_cause(error: RayTaskError) -> NoReturn:
    """What the worker refused with, as its own devices do; anything else with its traceback there, for the log."""
    if isinstance(error.cause, (CutoutError, LackingError)):
        raise error.cause from None
    if isinstance(error.cause, ObjectLostError):
        what = "what was remembered of the objects is lost with its node: open the session anew"
        raise UnavailableError(what, retry_after_s=1.0, reason="OBJECTS_LOST") from None
    raise error


def _picture(handle: Handle) -> Picture:
    assert handle.picture is not None, "a request holds its pictures"  # noqa: S101
    return handle.picture
