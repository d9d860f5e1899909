"""Puts load on a server and measures what comes of it."""

import io
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields
from itertools import count

import numpy as np
import PIL.Image
from numpy.typing import NDArray

from cutout_client.answer import Timings
from cutout_client.cli.question import Question
from cutout_client.client import Client
from cutout_client.errors import CutoutError

STAGES = tuple(field.name for field in fields(Timings) if field.name.endswith("_ms") and field.name != "total_ms")
PERCENTILES = (50, 90, 99)
_MARK = 16  # pixels; a whole block of JPEG, so that it survives
_LONGEST_PAUSE_S = 2.0


class Pictures:
    """A picture, over and over; unless it is to be the same, each time with another mark in its corner.

    The server keeps what it has found out about a picture, so that the same one again costs less.
    """

    def __init__(self, pixels: NDArray[np.uint8], *, same: bool) -> None:
        self._pixels = pixels
        self._numbers = count(time.time_ns() % 32**3)  # other ones than those of the run before
        self._kept = self._file(0) if same else None

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        """A JPEG file. Threads may share it."""
        return self._kept or self._file(next(self._numbers))

    def _file(self, number: int) -> bytes:
        pixels = self._pixels.copy()
        pixels[:_MARK, :_MARK] = [8 * (number // 32**place % 32) for place in range(3)]  # coarser than JPEG's steps
        file = io.BytesIO()
        PIL.Image.fromarray(pixels).save(file, "JPEG", quality=95)
        return file.getvalue()


@dataclass(frozen=True)
class Level:
    """What so many callers at once measured.

    Attributes:
        callers: How many, each of which asks again as soon as it has an answer.
        seconds: How long.
        latencies_ms: Of each answer, from the call to the result.
        stages_ms: The mean of each stage in the server, by its name in `Timings`; and "elsewhere", which is the way
            there and back, and what client and server do outside of the stages.
        refusals: How many calls had no answer, by their reason.
    """

    callers: int
    seconds: float
    latencies_ms: tuple[float, ...]
    stages_ms: dict[str, float]
    refusals: dict[str, int]

    @property
    def per_second(self) -> float:
        """Answers."""
        return len(self.latencies_ms) / self.seconds

    def percentile(self, share: int) -> float:
        """The latency in milliseconds that so many percent of the answers kept within; NaN without answers."""
        return float(np.percentile(self.latencies_ms, share)) if self.latencies_ms else float("nan")


def measure(client: Client, question: Question, pictures: Pictures, callers: int, seconds: float) -> Level:
    """Has callers ask for a while, each once at least."""
    began = time.monotonic()
    with ThreadPoolExecutor(callers) as pool:
        futures = [pool.submit(_ask, client, question, pictures, began + seconds) for _ in range(callers)]
        samples = [sample for future in futures for sample in future.result()]
    took_s = time.monotonic() - began
    answers = [(latency, timings) for latency, timings, _ in samples if timings is not None]
    stages = {name: _mean([getattr(timings, name) for _, timings in answers]) for name in STAGES}
    stages["elsewhere"] = _mean([latency for latency, _ in answers]) - sum(stages.values())
    refusals = Counter(reason for _, _, reason in samples if reason)
    return Level(callers, took_s, tuple(latency for latency, _ in answers), stages, dict(refusals))


_Sample = tuple[float, Timings | None, str]


def _ask(client: Client, question: Question, pictures: Pictures, end: float) -> list[_Sample]:
    samples: list[_Sample] = []
    while not samples or time.monotonic() < end:
        picture = next(pictures)
        began = time.perf_counter()
        try:
            timings, reason, pause_s = question.ask(client, picture).timings, "", 0.0
        except CutoutError as error:
            timings, reason, pause_s = None, error.reason or error.code.name, error.retry_after_s or 0.0
        samples.append((1000 * (time.perf_counter() - began), timings, reason))
        time.sleep(min(pause_s, _LONGEST_PAUSE_S))
    return samples


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values)) if values else 0.0
