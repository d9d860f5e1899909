"""The pool of a device of this process: jobs in the order of their requests, joined into batches."""

import asyncio
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol

import structlog

from cutout_server import call_context
from cutout_server.catalogue import ModelSpec
from cutout_server.errors import DeadlineError
from cutout_server.models.half_embeddings import compact, expand
from cutout_server.models.memory import in_use
from cutout_server.models.operations import Answer, Operation, Query
from cutout_server.pools.batch_sizing import BatchSizing
from cutout_server.pools.fair_queue import Turn
from cutout_server.pools.models import LoadedModels
from cutout_server.pools.pool import Pool
from cutout_server.settings import Settings

log = structlog.get_logger()

# What is done to the models themselves goes through the queue too, so that no pass is under way meanwhile.
_MANAGE: Operation[Callable[[LoadedModels], object], object] = Operation(
    "manage", "queue", lambda models, acts: [act(models) for act in acts]
)

# Of the event loop, from an answer to the next question of the same request.
_STEPS = 8


class PoolObserver(Protocol):
    """Hears what a pool does; metrics hang here."""

    def waited(self, device: str, seconds: float) -> None:
        """A job left the queue."""

    def batched(self, device: str, operation: str, size: int) -> None:
        """A batch goes to the model."""

    def dropped(self, device: str, why: str) -> None:
        """A job was dropped before it cost anything: `deadline` or `cancelled`."""


@dataclass(frozen=True)
class Job(Generic[Query, Answer]):
    """A question that waits for the device.

    Attributes:
        turn: Of the request that it belongs to; None for a job of the pool's own, which goes first.
        spec: The model to ask; None for a job of the pool's own.
        operation: What to ask it.
        question: The question itself.
        deadline_s: On the clock of time.monotonic; past it the job is dropped.
        max_batch: Most jobs in one pass.
    """

    turn: Turn | None
    spec: ModelSpec | None
    operation: Operation[Query, Answer]
    question: Query = field(repr=False)
    deadline_s: float
    max_batch: int
    done: asyncio.Future["_Done[Answer]"] = field(repr=False)
    queued_s: float = field(default_factory=time.monotonic)

    @property
    def kind(self) -> tuple[str, str]:
        """What it has in common with those that it may share a pass with."""
        return (self.spec.name if self.spec else "", self.operation.name)

    def joins(self, other: "AnyJob") -> bool:
        """Whether both fit into one pass."""
        return self.spec is not None and self.spec is other.spec and self.operation is other.operation


AnyJob = Job[Any, Any]  # Jobs of all kinds wait together.


@dataclass(frozen=True)
class _Done(Generic[Answer]):
    """The answer to a job, and when the pass that made it began and ended."""

    answer: Answer
    started_s: float
    finished_s: float


class DevicePool(Pool):
    """A device of this process. Belongs to the event loop; models run in the pool's one thread.

    Attributes:
        pass_began_s: When the pass that is under way began, on the clock of time.monotonic, once its model was loaded;
            None while there is none. Any thread may look.
    """

    def __init__(
        self,
        device: str,
        *,
        capacity: int,
        max_batch: int,
        max_encode_batch: int,
        memory_budget_bytes: int,
        embeddings_cache_bytes: int,
        compact_embeddings: bool = False,
        observer: PoolObserver,
    ) -> None:
        models = LoadedModels(device, memory_budget_bytes, self._unloaded)
        super().__init__(device, models, capacity=capacity, embeddings_cache_bytes=embeddings_cache_bytes)
        self.pass_began_s: float | None = None
        self._compact_embeddings = compact_embeddings
        self._max_batch = max_batch
        self._max_encode_batch = max_encode_batch
        self._observer = observer
        self._batch_sizing = BatchSizing()
        self._waiting: list[AnyJob] = []
        self._arrived = asyncio.Event()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=f"pool-{device}")
        self._loop = asyncio.get_running_loop()
        self._worker = self._loop.create_task(self._work(), name=f"pool-{device}")

    @classmethod
    def of(cls, device: str, settings: Settings, observer: PoolObserver) -> "DevicePool":
        """As the operator set it."""
        return cls(
            device,
            capacity=settings.max_requests_per_device,
            max_batch=settings.max_batch,
            max_encode_batch=settings.max_encode_batch,
            memory_budget_bytes=settings.memory_budget_bytes,
            embeddings_cache_bytes=settings.embeddings_cache_bytes,
            compact_embeddings=settings.embeddings_cache_dtype == "bf16",
            observer=observer,
        )

    @property
    def queued_jobs(self) -> int:
        """See Pool."""
        return len(self._waiting)

    def memory(self) -> tuple[int, int]:
        """See Pool."""
        return in_use(self.device)

    async def ask(
        self,
        turn: Turn,
        operation: Operation[Query, Answer],
        spec: ModelSpec,
        questions: Sequence[Query],
        *,
        deadline_s: float,
    ) -> list[Answer]:
        """See Pool."""
        asked_s = time.monotonic()
        most = self._max_encode_batch if operation.makes_embeddings else self._max_batch
        jobs: list[Job[Query, Answer]] = [
            Job(
                turn,
                spec,
                operation,
                question,
                deadline_s,
                min(spec.family.max_batch, most),
                self._loop.create_future(),
            )
            for question in questions
        ]
        self._enqueue(jobs)
        try:
            done = [await job.done for job in jobs]
        finally:
            for job in jobs:
                job.done.cancel()  # Those that nobody waits for any more; the rest are done.
                if not job.done.cancelled():
                    job.done.exception()  # Seen, so that asyncio does not complain of several.
        # Each pass counts once, however many of the jobs went through it.
        passes = sorted({(each.started_s, each.finished_s) for each in done})
        worked_s = sum(finished_s - started_s for started_s, finished_s in passes)
        call = call_context.current()
        call.stages.add(operation.stage, worked_s)
        call.stages.add("queue", time.monotonic() - asked_s - worked_s)
        if passes:
            call.span.part("queue", asked_s, passes[0][0], device=self.device)
        for started_s, finished_s in passes:
            call.span.part(operation.stage, started_s, finished_s, device=self.device, model=spec.name)
        return [finished.answer for finished in done]

    async def load(self, spec: ModelSpec) -> None:
        """See Pool."""
        await self._exclusively(lambda models: models.get(spec, may_export=True))

    async def unload(self, name: str) -> None:
        """See Pool."""
        await self._exclusively(lambda models: models.unload(name))

    async def make_room(self) -> None:
        """See Pool."""
        models = self.models
        if not models.fits(sum(models.sizes().values()) + models.remembered_bytes):
            await self._exclusively(lambda models: models.make_room())

    async def close(self) -> None:
        """See Pool."""
        self._worker.cancel()
        await asyncio.gather(self._worker, return_exceptions=True)
        for job in self._waiting:
            job.done.cancel()
        self._thread.shutdown(wait=False, cancel_futures=True)

    async def _exclusively(self, act: Callable[[LoadedModels], object]) -> None:
        done: asyncio.Future[_Done[object]] = self._loop.create_future()
        self._enqueue([Job(None, None, _MANAGE, act, float("inf"), 1, done)])
        await done

    def _unloaded(self, model: str) -> None:
        for forget in self.on_unload:
            self._loop.call_soon_threadsafe(forget, model)

    def _enqueue(self, jobs: Sequence[AnyJob]) -> None:
        self._waiting.extend(jobs)
        self._arrived.set()

    async def _work(self) -> None:
        while True:
            await self._arrived.wait()
            batch = self._next_batch()
            if not batch:
                self._arrived.clear()
                continue
            started_s = time.monotonic()
            try:
                self._begin(batch, started_s)
                await self._run(batch, started_s)
                await self._let_answered_go_on()
            except asyncio.CancelledError:
                for job in batch:
                    job.done.cancel()
                raise
            except Exception as error:  # noqa: BLE001 - the worker outlives it, or all who wait would wait for ever
                for job in batch:
                    if not job.done.done():
                        job.done.set_exception(error)

    async def _let_answered_go_on(self) -> None:
        """Hears what those who were just answered ask next, before others have the device for a whole pass.

        A device that never waits for whom it serves gives every other pass away (deceptive idleness: Iyer, Druschel
        2001). The next question is a few steps of the event loop away, so that there is no time to be guessed.
        """
        for _ in range(_STEPS if self._waiting else 0):
            await asyncio.sleep(0)

    def _begin(self, batch: list[AnyJob], started_s: float) -> None:
        for job in batch:
            self._observer.waited(self.device, started_s - job.queued_s)
        if turns := dict.fromkeys(job.turn for job in batch if job.turn):
            self.fair_queue.begin(*turns, kind=batch[0].kind)
        self.batches += 1
        self.jobs += len(batch)
        self._observer.batched(self.device, batch[0].operation.name, len(batch))

    def _next_batch(self) -> list[AnyJob]:
        """Removes the first job and those that can share its pass, dropping dead ones on the way."""
        alive = [job for job in self._waiting if self._is_alive(job)]
        own, asked = [job for job in alive if not job.turn], [(job.turn, job) for job in alive if job.turn]
        # Sort is stable, so a request's own jobs keep their order.
        asked.sort(key=lambda waiting: self.fair_queue.order(waiting[0], waiting[1].kind))
        alive = own + [job for _, job in asked]
        batch = [job for job in alive if job is alive[0] or job.joins(alive[0])]
        if batch:
            most = min(len(batch), batch[0].max_batch)
            batch = batch[: self._batch_sizing.best(batch[0].kind, most)]
        chosen = set(map(id, batch))
        self._waiting = [job for job in alive if id(job) not in chosen]
        return batch

    def _is_alive(self, job: AnyJob) -> bool:
        if job.done.done():
            self._observer.dropped(self.device, "cancelled")
            return False
        if time.monotonic() >= job.deadline_s:
            self._observer.dropped(self.device, "deadline")
            job.done.set_exception(DeadlineError("the deadline passed while the request waited for a device"))
            return False
        return True

    async def _run(self, batch: list[AnyJob], started_s: float) -> None:
        try:
            answers, seconds = await self._loop.run_in_executor(self._thread, self._pass, batch)
        except Exception as error:  # noqa: BLE001 - it belongs to the jobs, not to the worker
            if len(batch) > 1:
                # One bad question must not fail the others: each is asked again on its own.
                for job in batch:
                    await self._run([job], started_s)
            elif not batch[0].done.done():
                batch[0].done.set_exception(error)
            return
        self._batch_sizing.measured(batch[0].kind, len(batch), seconds)
        finished_s = time.monotonic()
        for job, answer in zip(batch, answers, strict=True):
            if not job.done.done():
                job.done.set_result(_Done(answer, started_s, finished_s))

    def _pass(self, batch: list[AnyJob]) -> tuple[Sequence[Any], float]:
        """The answers, and the seconds that they took, without those of loading the model."""
        spec, operation = batch[0].spec, batch[0].operation
        model = self.models.get(spec) if spec else self.models
        questions = [job.question for job in batch]
        began_s = time.monotonic()
        self.pass_began_s = began_s if spec else None
        try:
            # Even an embedding that is used at once, so that an answer does not depend on where its embedding was.
            if self._compact_embeddings and operation.reads_embeddings:
                questions = expand(questions)
            answers = operation.run(model, questions)
            if self._compact_embeddings and operation.makes_embeddings:
                answers = compact(answers)
        finally:
            self.pass_began_s = None
        if len(answers) != len(batch):
            raise RuntimeError(f"{'.'.join(batch[0].kind)} gave {len(answers)} answers to {len(batch)} questions")
        return answers, time.monotonic() - began_s
