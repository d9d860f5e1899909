"""How long the next answer of a session is waited for, and what is told when none comes.

gRPC's own deadline would count from the session's beginning.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import grpc
from cutout_common.status import ErrorDetails

from cutout_client import errors
from cutout_client.diagnosis import unanswered
from cutout_client.transport import Call


@contextmanager
def limited(cancel: Callable[[], object], limit_s: float | None) -> Iterator[Callable[[], bool]]:
    """Cancels a session when time is up, if there is a limit; yields what tells whether it was."""
    up = threading.Event()
    if limit_s is None:
        yield up.is_set
        return

    def expire() -> None:
        up.set()
        cancel()

    timer = threading.Timer(limit_s, expire)
    timer.daemon = True
    timer.start()
    try:
        yield up.is_set
    finally:
        timer.cancel()


def late(call: Call) -> errors.DeadlineError:
    """What is told when time is up."""
    text = unanswered(call) or "no answer in time; the session is over"
    return errors.DeadlineError(grpc.StatusCode.DEADLINE_EXCEEDED, text, ErrorDetails(request_id=call.request_id))


def ended(request_id: str, why: str = "the server has ended the session") -> errors.CallCancelledError:
    """What is told when the session is over."""
    return errors.CallCancelledError(grpc.StatusCode.CANCELLED, why, ErrorDetails(request_id=request_id))
