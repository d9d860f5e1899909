"""What is known about a call, while it is at work and once it is over.

The call at hand is carried in a context variable, so that no signature has to.
"""

import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from typing import Protocol

import grpc
import structlog
from cutout_common import traces

from cutout_server.callers.accounts import NOBODY, Account
from cutout_server.errors import CutoutError, QuotaError

log = structlog.get_logger()

ANONYMOUS = "anonymous"
# Why a call was cancelled by a caller who only asked whether it is let in.
ASKED = "ASKED"


@dataclass
class Stages:
    """Wall-clock time that each stage of a request took, in milliseconds, added up.

    The answer's Timings, the log line and the metrics are all read from here.

    Attributes:
        embedding_cached: Whether the picture's embedding was at hand.
        exceeded: How often each quota was exceeded, by a session's prompts too.
    """

    started_s: float = field(default_factory=time.monotonic)
    ms: dict[str, float] = field(default_factory=dict)
    embedding_cached: bool = False
    exceeded: Counter[str] = field(default_factory=Counter)

    def add(self, stage: str, seconds: float) -> None:
        """Adds to a stage's time."""
        self.ms[stage] = self.ms.get(stage, 0.0) + seconds * 1000

    def extend(self, other: "Stages") -> None:
        """Adds another request's times, as a session does with those of its prompts."""
        for stage, ms in other.ms.items():
            self.add(stage, ms / 1000)
        self.exceeded.update(other.exceeded)

    def note(self, refusal: CutoutError) -> None:
        """Counts the quota that something was refused by, if it was."""
        if isinstance(refusal, QuotaError):
            self.exceeded[refusal.quota] += 1

    def total_ms(self) -> float:
        """Milliseconds since the request began."""
        return (time.monotonic() - self.started_s) * 1000


async def _unbounded(nbytes: int) -> None:
    """Waits for nothing: the bytes of these answers are not bounded."""


def _keep_nothing() -> Callable[[], None]:
    """The bytes of these messages are not bounded."""
    return lambda: None


class Resting(Protocol):
    """Something that a call can give back while it waits for its caller, such as a slot on a device."""

    def rest(self) -> bool:
        """Gives it back until the call goes on; returns whether that was possible."""
        ...


@dataclass(frozen=True)
class Call:
    """One call of an RPC.

    Attributes:
        request_id: The caller's, or ours.
        caller: Name that belongs to the API key; "anonymous" when no keys are configured.
        deadline_s: On the clock of time.monotonic; infinite for sessions, which live by their idle time.
        stages: Where the time went.
        peer: The caller's address.
        resting: What it gives back while it waits for nothing but its caller.
        hold_answer: Waits for room for so many bytes of its answer.
        keep_message: Keeps the room of the last message when the next one is read before that is done; returns what
            gives it back.
        account: What the caller uses of the server.
        image_key: The header that load balancers route by; empty when there was none.
        span: Its part of a trace.
    """

    request_id: str
    caller: str
    deadline_s: float
    stages: Stages = field(default_factory=Stages)
    peer: str = ""
    resting: list[Resting] = field(default_factory=list)
    hold_answer: Callable[[int], Awaitable[None]] = _unbounded
    keep_message: Callable[[], Callable[[], None]] = _keep_nothing
    account: Account = NOBODY
    image_key: str = ""
    span: traces.Span = field(default_factory=traces.Untraced)

    @property
    def party(self) -> str:
        """Among whom the server is shared: callers, or, where nobody has a key, the addresses that they come from."""
        return self.account.party or self.caller


_current: ContextVar[Call] = ContextVar("call")


def current() -> Call:
    """The call that this task works for."""
    return _current.get()


def party() -> str:
    """The party of the current call; empty for what the server does for itself."""
    call = _current.get(None)
    return call.party if call else ""


def deadline_s() -> float:
    """The deadline of the current call; infinite when there is none."""
    call = _current.get(None)
    return call.deadline_s if call else float("inf")


@contextmanager
def may_rest(held: Resting) -> Iterator[None]:
    """The current call may give something back, for the block, while it waits for its caller."""
    call = _current.get(None)
    resting = call.resting if call else []
    resting.append(held)
    try:
        yield
    finally:
        resting.remove(held)


def begin(call: Call) -> None:
    """Makes `call` the current one for the rest of this task; each RPC has a task of its own."""
    _current.set(call)


@contextmanager
def stage(name: str) -> Iterator[None]:
    """Counts the block's time, its failures too, to a stage of the current call."""
    started = time.monotonic()
    try:
        yield
    finally:
        spent(name, started)


def spent(stage: str, began_s: float) -> None:
    """Counts the time since then to a stage of the current call."""
    call, now_s = _current.get(), time.monotonic()
    call.stages.add(stage, now_s - began_s)
    call.span.part(stage, began_s, now_s)


@contextmanager
def part() -> Iterator[None]:
    """A part of the current call with stages of its own, which are added to the call's at its end."""
    whole = _current.get()
    begin(replace(whole, stages=Stages()))
    try:
        yield
    finally:
        whole.stages.extend(_current.get().stages)
        begin(whole)


@dataclass(frozen=True)
class Rpc:
    """Which method was called, in the words of the standard gRPC metrics."""

    type: str
    service: str
    method: str


@dataclass(frozen=True)
class CallRecord:
    """What there is to say about a call once it is over.

    Attributes:
        rpc: The method.
        request_id: The caller's, or ours.
        caller: Name that belongs to the key.
        peer: Address.
        code: How it ended.
        reason: UPPER_SNAKE; empty when it ended well.
        seconds: From its arrival to its end.
        received: Messages in.
        sent: Messages out.
        stages_ms: Where the time went.
        exceeded: How often each quota was exceeded.
        traceparent: Of its span, or its caller's.
    """

    rpc: Rpc
    request_id: str
    caller: str
    peer: str
    code: grpc.StatusCode
    reason: str
    seconds: float
    received: int
    sent: int
    stages_ms: dict[str, float]
    exceeded: Mapping[str, int] = field(default_factory=dict)
    traceparent: str = ""


class CallObserver(Protocol):
    """Hears of every call; logs and metrics hang here."""

    def started(self, rpc: Rpc) -> None:
        """A call has arrived. Of one that asks first whether it is let in this is heard when it is over."""

    def finished(self, record: CallRecord) -> None:
        """A call is over; its reason is `ASKED` if it did no more than that, and then it never started."""


class CallLog:
    """Writes one line for each call."""

    def started(self, rpc: Rpc) -> None:
        """Nothing yet."""

    def finished(self, record: CallRecord) -> None:
        """At `info` when it ended well, at `warning` otherwise; at `debug` when somebody only asked."""
        write = log.info if record.code is grpc.StatusCode.OK else log.warning
        if record.reason == ASKED:
            write = log.debug
        write(
            "call",
            request_id=record.request_id,
            caller=record.caller,
            peer=record.peer,
            service=record.rpc.service,
            method=record.rpc.method,
            code=record.code.name,
            **({"reason": record.reason} if record.reason else {}),
            ms=round(record.seconds * 1000, 1),
            stages={stage: round(ms, 1) for stage, ms in record.stages_ms.items()},
        )
