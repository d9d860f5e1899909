"""Callers take turns at a few processes that decode what may take long, so that nobody pays for another's work."""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from typing import ParamSpec, Protocol, TypeVar

import structlog

from cutout_server import call_context
from cutout_server.errors import InvalidRequestError, UnavailableError
from cutout_server.images.decode_process import Worker
from cutout_server.imaging.decode import TOO_COSTLY, OpenedFile
from cutout_server.imaging.video import VIDEO_TOO_COSTLY
from cutout_server.pools.fair_queue import FairQueue, Turn, WorkObserver
from cutout_server.types import Picture

P = ParamSpec("P")
T = TypeVar("T")

log = structlog.get_logger()

WHERE = "decode process"
_IDLE_S = 120.0  # Then it gives its memory back.


class DecodeObserver(WorkObserver, Protocol):
    """Hears of pictures that came to nothing, too."""

    def given_up(self, why: str) -> None:
        """Decoding ended before its time: `left` (caller or deadline), `time` (the bound on it) or `died`."""


class Lease:
    """A place in the line for processes, and the process that was had by it.

    Attributes:
        worker: None while it has none.
        since_s: When it was had, on the clock of time.monotonic.
    """

    def __init__(self, decoders: "Decoders", turn: Turn) -> None:
        self.worker: Worker | None = None
        self.since_s = 0.0
        self._decoders = decoders
        self._turn = turn
        self._waited_s = 0.0

    async def take(self) -> Worker:
        """Waits for a process.

        Raises:
            UnavailableError: None can begin.
        """
        queued_s = time.monotonic()
        self.worker = await self._decoders.granted(self._turn)
        self.since_s = time.monotonic()
        self._waited_s = self.since_s - queued_s
        return self.worker

    def let_go(self) -> None:
        """Gives the process back, if it has one."""
        worker, self.worker = self.worker, None
        if worker is not None:
            self._decoders.returned(self._turn, worker)
            self._decoders.worked(self._waited_s, time.monotonic() - self.since_s)


@dataclass(eq=False)
class _Wish:
    turn: Turn
    granted: asyncio.Future[None] = field(default_factory=lambda: asyncio.get_running_loop().create_future())


class Decoders:
    """A few such processes, which begin when they are needed. Belongs to the event loop.

    Callers take turns, and one of them may use all but one of the processes.

    Args:
        processes: How many at most.
        seconds: Time of a processor that one picture, or a frame, may take.
        observer: Hears of every picture.
        where: What the observer calls them.

    Attributes:
        seconds: As above.
    """

    def __init__(self, processes: int, seconds: int, observer: DecodeObserver, where: str = WHERE) -> None:
        self._free = processes
        self._share = max(1, processes - 1)
        self.seconds = seconds
        self._observer = observer
        self._where = where
        self._threads = ThreadPoolExecutor(processes, thread_name_prefix="decode-process")
        self._workers: set[Worker] = set()
        self._idle: list[Worker] = []
        self._turns = FairQueue()
        self._working: Counter[str] = Counter()
        self._waiting: list[_Wish] = []
        observer.queue(where, lambda: len(self._waiting))

    async def decode(self, file: OpenedFile, known_key: str = "") -> Picture:
        """The decoded picture. Whoever stops waiting stops the work.

        Raises:
            InvalidRequestError: The file is damaged, or takes longer than a picture may.
            UnavailableError: The process died.
        """
        async with self.worker() as worker:
            return await self.run(worker.decode, file, known_key, self.seconds)

    async def run(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Does what waits for a process, in a thread; raises what that raises."""
        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, partial(work, *args, **kwargs))
        except asyncio.CancelledError:
            self._observer.given_up("left")
            raise
        except UnavailableError:
            self._observer.given_up("died")
            raise
        except InvalidRequestError as error:
            if error.reason in {TOO_COSTLY, VIDEO_TOO_COSTLY}:
                self._observer.given_up("time")
            raise

    @asynccontextmanager
    async def worker(self) -> AsyncIterator[Worker]:
        """A process for the block, after the turns of others; one that is not done by its end is killed."""
        with self.lease() as lease:
            yield await lease.take()

    @contextmanager
    def lease(self) -> Iterator["Lease"]:
        """A place in the line for the block, by which a process can be had, and given back, more than once."""
        turn = self._turns.take(call_context.party(), call_context.deadline_s())
        lease = Lease(self, turn)
        try:
            yield lease
        finally:
            lease.let_go()
            self._turns.give_back(turn)

    @property
    def is_wanted(self) -> bool:
        """Whether anybody waits for a process."""
        return bool(self._waiting)

    def worked(self, waited_s: float, seconds: float) -> None:
        """A process was used."""
        self._observer.worked(self._where, waited_s, seconds)

    async def close(self) -> None:
        """Kills every process."""
        for worker in list(self._workers):
            self._end(worker)
        await asyncio.to_thread(self._threads.shutdown)

    async def granted(self, turn: Turn) -> Worker:
        """A process, after the turns of others; `returned` gives it back."""
        wish = _Wish(turn)
        self._waiting.append(wish)
        self._grant()
        try:
            await wish.granted
            return self._take()
        except BaseException:
            if wish.granted.cancelled():
                self._waiting.remove(wish)
            else:
                self._freed(turn)
            raise

    def returned(self, turn: Turn, worker: Worker) -> None:
        """A process is not needed now; one that is not done is killed."""
        self._put_back(worker)
        self._freed(turn)

    def _freed(self, turn: Turn) -> None:
        self._working[turn.caller] -= 1
        self._free += 1
        self._grant()

    def _grant(self) -> None:
        waiting = sorted(self._waiting, key=lambda wish: self._turns.order(wish.turn))
        for wish in waiting:
            caller = wish.turn.caller
            if self._free and self._working[caller] < self._share and not wish.granted.done():
                self._waiting.remove(wish)
                self._turns.begin(wish.turn)
                self._free -= 1
                self._working[caller] += 1
                wish.granted.set_result(None)
        self._working += Counter()  # Forgets those who have none.

    def _take(self) -> Worker:
        while self._idle:
            worker = self._idle[-1]
            if worker.is_alive:
                self._idle.pop()
                break
            self._end(worker)
        else:
            try:
                worker = Worker()
            except OSError as error:
                log.warning("no process to decode in", error=str(error))
                raise UnavailableError("no process can begin", retry_after_s=1.0, reason="DECODER_DIED") from error
            self._workers.add(worker)
        if worker.retiring is not None:
            worker.retiring.cancel()
        worker.is_ready = False  # Here, as the thread that asks it may begin when its caller has left.
        return worker

    def _put_back(self, worker: Worker) -> None:
        if worker.is_ready:
            worker.retiring = asyncio.get_running_loop().call_later(_IDLE_S, self._end, worker)
            self._idle.append(worker)
        else:
            self._end(worker)

    def _end(self, worker: Worker) -> None:
        """A thread that waits for an answer sees the end; one more looks after what is left where none waits."""
        self._workers.discard(worker)
        worker.kill()
        if worker in self._idle:
            self._idle.remove(worker)
        with suppress(RuntimeError):  # The server has stopped.
            self._threads.submit(worker.close)
        if worker.retiring is not None:
            worker.retiring.cancel()
