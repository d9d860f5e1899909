"""The caller's side of a session: messages until nothing of use comes any more, and what each of them is answered."""

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from dataclasses import replace
from typing import Any, TypeVar

from cutout_server import call_context
from cutout_server.errors import (
    CutoutError,
    DeadlineError,
    InternalError,
    OverloadedError,
    UnavailableError,
)

M = TypeVar("M")
T = TypeVar("T")

# Refusals that are no fault of the caller's.
_NOT_THE_CALLERS = (DeadlineError, InternalError, OverloadedError, UnavailableError)


class Use:
    """When a session was last of use: messages that cannot be answered keep none alive."""

    def __init__(self) -> None:
        self.again()

    def again(self) -> None:
        """It was, just now."""
        self._last_s = time.monotonic()

    def unless_blamed(self, refusal: CutoutError) -> None:
        """It was, if a refusal is no fault of the caller's."""
        if isinstance(refusal, _NOT_THE_CALLERS):
            self.again()

    @property
    def idle_s(self) -> float:
        """Seconds since then."""
        return time.monotonic() - self._last_s


async def incoming(
    requests: AsyncIterator[M], use: Use, draining: asyncio.Event, *, idle_s: float, what: str
) -> AsyncGenerator[M]:
    """The caller's messages.

    Args:
        requests: As they come.
        use: When the session was last of use.
        draining: Set once the server stops.
        idle_s: So long it may be of none.
        what: What does not come then, for the error.

    Raises:
        DeadlineError: Nothing of use came for so long.
        UnavailableError: The server stops, and no message was there.
    """
    stopping = asyncio.ensure_future(draining.wait())
    message: asyncio.Future[Any] = stopping
    try:
        while True:
            message = asyncio.ensure_future(anext(requests, None))
            done, _ = await asyncio.wait(
                {message, stopping}, timeout=max(0.0, idle_s - use.idle_s), return_when=asyncio.FIRST_COMPLETED
            )
            if message not in done:
                if stopping in done:
                    raise UnavailableError.draining()
                raise DeadlineError(f"no {what} that could be answered for {idle_s:g} s", reason="SESSION_IDLE")
            if (arrived := message.result()) is None:
                return
            yield arrived
    finally:
        for waiting in (stopping, message):
            waiting.cancel()
        await asyncio.gather(stopping, message, return_exceptions=True)


async def attempted(work: Callable[[], Awaitable[T]], seconds: float, what: str) -> T | CutoutError:
    """Answers one message of a session, with a deadline and stages of its own; a refusal is an answer, too."""
    session = call_context.current()
    call = replace(session, stages=call_context.Stages(), deadline_s=time.monotonic() + seconds)
    call_context.begin(call)
    try:
        async with asyncio.timeout(seconds):
            call.account.request()
            return await work()
    except TimeoutError:
        return DeadlineError(f"the {what} took longer than {seconds:g} s")
    except CutoutError as refused:
        call.stages.note(refused)
        return refused
    finally:
        session.stages.extend(call.stages)
        call_context.begin(session)
