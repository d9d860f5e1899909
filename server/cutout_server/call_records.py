"""What there is to say of a call once it is over, and the line that the log gets of it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

import grpc
import structlog

log = structlog.get_logger()

# Why a call was cancelled by a caller who only asked whether it is let in.
ASKED = "ASKED"


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
