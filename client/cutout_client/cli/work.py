"""What threads do with the pictures of a run, and when it is over."""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from itertools import islice

from cutout_client.cli.folders import Job
from cutout_client.cli.kept import Keeper
from cutout_client.cli.outcomes import Outcome, said
from cutout_client.cli.progress import ProgressLine
from cutout_client.cli.question import Question
from cutout_client.cli.stopping import Stop
from cutout_client.client import Client
from cutout_client.errors import (
    CallCancelledError,
    CutoutError,
    NotFoundError,
    PermissionDeniedError,
    UnauthenticatedError,
    UnavailableError,
    UnimplementedError,
)
from cutout_client.exports import EXPORTS

REACH_S = 10.0  # within which a server says that it is there
_AHEAD = 8  # pictures given to each thread while the first of them is waited for


class Work:
    """What threads do with each picture."""

    def __init__(
        self,
        client: Client,
        question: Question,
        formats: Sequence[str],
        keeper: Keeper,
        stop: Stop,
        line: ProgressLine,
        most_failures: int,
    ) -> None:
        self._client = client
        self._question = question
        self._formats = [form for form in formats if form not in {"coco", *EXPORTS}]  # which are about all
        self._keeper = keeper
        self._stop = stop
        self._line = line
        self._failures_left = most_failures

    def __call__(self, job: Job) -> Outcome | None:
        """One picture. Whatever goes wrong is its own, and what can be written is; None when the run ended before."""
        if self._stop.reason:
            return self._done_before(job)
        self._line.begins(job)
        outcome = Outcome(job, error=job.error) if job.error else self._answer(job)
        if outcome.error:
            if self._stop.signals > 1:  # cut short
                return None
            self._judge(outcome.error)
        self._line.ends(outcome)
        return outcome

    def _done_before(self, job: Job) -> Outcome | None:
        """What an earlier run has done belongs to this one's dataset, however early this one ends."""
        with suppress(OSError):
            kept = self._keeper.find(job)
            if kept and kept.serves(self._question) and kept.written(job).keys() >= set(self._formats):
                return Outcome(job, kept.segmentation(job), kept=True)
        return None

    def _answer(self, job: Job) -> Outcome:
        try:
            kept = self._keeper.find(job)
            if kept is None:
                self._keeper.clear(job)
            serves = kept is not None and kept.serves(self._question)
            result = kept.segmentation(job) if kept and serves else self._question.ask(self._client, job.source)
        except Exception as error:  # noqa: BLE001  # Pillow and NumPy raise what they like
            return Outcome(job, error=error)
        files = kept.written(job) if kept else {}
        missing = [form for form in self._formats if form not in files]
        failures: list[str] = []
        for form in missing:
            try:
                files[form] = result.save(job.folder, [form], name=job.name)
            except Exception as error:  # noqa: BLE001  # as above
                failures.append(f"{form} was not written: {said(error)}")
        try:
            if missing or not serves:
                self._keeper.keep(job, result, files)
        except OSError as error:
            failures.append(f"the answer was not kept: {said(error)}")
        paths = [path for form in self._formats for path in files.get(form, ())]
        return Outcome(job, result, paths, ValueError("; ".join(failures)) if failures else None, serves)

    def _judge(self, error: Exception) -> None:
        """Ends the run when the rest would fail too, or when enough has failed."""
        self._failures_left -= 1
        if self._failures_left < 0:
            self._stop.because("more have failed than --most-failures allows")
        if _is_over(self._client, error):
            self._stop.because("they would have failed alike")


def serves(client: Client) -> bool:
    """Whether the server takes requests, as far as it says.

    Raises:
        CutoutError: It is not there.
    """
    with suppress(NotFoundError, UnimplementedError):
        return client.health(timeout_s=REACH_S) == "serving"
    return True  # it knows nothing of health; what it knows will show


def _is_over(client: Client, error: Exception) -> bool:
    """Whether the pictures that are left would fail in the same way; one may have cost a server that is back by now."""
    # gRPC tells CANCELLED and no more of a call that comes in the instant in which its server ends.
    if isinstance(error, (UnavailableError, CallCancelledError)):
        try:
            return not serves(client)
        except CutoutError:
            return True
    if isinstance(error, CutoutError) and error.reason == "MODEL_NOT_FOUND":
        return True
    return isinstance(error, UnauthenticatedError | PermissionDeniedError | UnimplementedError)


def on_all(work: Callable[[Job], Outcome | None], jobs: Sequence[Job], threads: int) -> Iterator[Outcome]:
    """Outcomes in the order of the jobs; none of those that were not begun."""
    pool = ThreadPoolExecutor(threads)
    rest = iter(jobs)
    try:
        futures = deque(pool.submit(work, job) for job in islice(rest, _AHEAD * threads))
        while futures:  # results are let go as they are given
            outcome = futures.popleft().result()
            futures.extend(pool.submit(work, job) for job in islice(rest, 1))
            if outcome is not None:
                yield outcome
    finally:
        pool.shutdown(wait=False, cancel_futures=True)  # what still runs ends with the client
