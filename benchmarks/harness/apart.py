"""Work in a process of its own, step by step."""

import multiprocessing
import resource
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection

import psutil


@dataclass(frozen=True)
class Step:
    """What a step took.

    Attributes:
        seconds: From its beginning to its end.
        processor_s: Time that all threads of the process computed.
        resident_bytes: Memory that the process holds at its end.
        peak_bytes: The most that it has held so far.
    """

    seconds: float
    processor_s: float
    resident_bytes: int
    peak_bytes: int


@contextmanager
def apart(work: Callable[..., Iterator[object]], *given: object) -> Iterator[Callable[[], Step]]:
    """Goes through an iterator in another process, up to the first element at once and then one with each call.

    Raises:
        RuntimeError: Of a call: the work failed; the text says how.
    """
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=_serve, args=(there, work, given), daemon=True)
    process.start()
    there.close()

    def step() -> Step:
        here.send(None)
        return _received(here)

    try:
        _received(here)
        yield step
    finally:
        here.close()
        process.kill()
        process.join()


def _received(pipe: Connection) -> Step:
    answer = pipe.recv()
    if isinstance(answer, str):
        raise RuntimeError(answer)  # noqa: TRY004 - it is what the other process reports
    took: Step = answer
    return took


def _serve(pipe: Connection, work: Callable[..., Iterator[object]], given: tuple[object, ...]) -> None:
    warnings.simplefilter("ignore")  # The official packages' own, which say nothing about speed.
    try:
        steps = work(*given)
        while True:
            started, computed = time.perf_counter(), time.process_time()
            next(steps)
            seconds, processor_s = time.perf_counter() - started, time.process_time() - computed
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
            pipe.send(Step(seconds, processor_s, psutil.Process().memory_info().rss, peak))
            pipe.recv()
    except (EOFError, BrokenPipeError):
        pass
    except Exception as error:  # noqa: BLE001 - whatever it is, it belongs to the process that waits
        pipe.send(f"{work.__name__}: {type(error).__name__}: {error}")
