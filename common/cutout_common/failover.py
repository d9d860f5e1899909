"""Calls that are tried at one server after the other.

All that servers do for callers may be done again: the answers are the same, and what a server did for a call whose
answer was lost is lost with it. So a call goes on at another server, within its deadline, when its own is gone, drains
or is full. One that two servers were lost with may be what ends them, and is tried no more.
"""

import random
import re
from contextlib import AbstractContextManager
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any

import grpc
from google.rpc.status_pb2 import Status
from grpc_status import rpc_status

from cutout_common import routing
from cutout_common.fleet import Fleet, Member
from cutout_common.routing import Place
from cutout_common.status import ErrorDetails, pack, unpack

MAX_LOST = 2
MAX_UNTOLD = 5
DRAINING = "DRAINING"
LACKING_REASON = "MODEL_NOT_FOUND"
LOST_REASON = "SERVERS_LOST"
CHANGED_REASON = "ANSWER_CHANGED"
FIRST_PAUSE_S = 0.2
MAX_PAUSE_S = 5.0
# In gRPC's words, and in Envoy's, which the call reached, but no server behind it.
_UNREACHED = "failed to connect|resolv|reset reason: .*connection failure|no healthy upstream"


class Failure(Enum):
    """Why another server may do better."""

    UNREACHED = auto()  # the call never got there
    LOST = auto()  # the server was lost while it had the call
    REFUSED = auto()  # it drains, starts, or cannot keep pictures
    FULL = auto()
    ELSEWHERE = auto()  # it does not have the stored picture
    LACKING = auto()  # it does not have the model, which one of another version may
    UNTOLD = auto()  # it ended the call, and grpc.aio, which was writing, lost its word of why


# Those after which a server is better left alone.
_OF_THE_SERVER = {Failure.UNREACHED, Failure.LOST, Failure.REFUSED}


def failure_of(error: grpc.RpcError) -> tuple[Failure | None, ErrorDetails]:
    """Why another server may do better than the one that failed; None when it would not."""
    call: Any = error  # grpc raises the call itself
    code, details = call.code(), _details(call)
    if code is grpc.StatusCode.NOT_FOUND and details.reason == routing.ELSEWHERE:
        return Failure.ELSEWHERE, details
    if details.reason == LACKING_REASON:
        return Failure.LACKING, details
    if code is grpc.StatusCode.RESOURCE_EXHAUSTED and details.retry_after_s is not None:
        return None if details.reason == "QUOTA_EXCEEDED" else Failure.FULL, details
    if code is grpc.StatusCode.UNAVAILABLE and details.reason:
        return Failure.LOST if details.reason == "DECODER_DIED" else Failure.REFUSED, details
    return None if details.reason else _said_by_grpc(code, call.details() or ""), details


@dataclass
class Losses:
    """How many servers were lost with a call, however often it is made."""

    count: int = 0

    @property
    def are_enough(self) -> bool:
        """Whether it is not to be tried again."""
        return self.count >= MAX_LOST


def given_up(request_id: str) -> Status:
    """What the caller of such a call is told."""
    message = f"given up after {MAX_LOST} servers were lost while they had this request, which may be what ends them"
    return pack(grpc.StatusCode.INTERNAL, message, ErrorDetails(reason=LOST_REASON, request_id=request_id))


def changed(request_id: str) -> Status:
    """What the caller of a stream is told that no other server can go on with."""
    message = "the server was lost, and another one's answer is not the same so far"
    return pack(grpc.StatusCode.DATA_LOSS, message, ErrorDetails(reason=CHANGED_REASON, request_id=request_id))


def so_far(parts: int) -> str:
    """What the error of a stream says of the answer's parts that its caller has."""
    return f"; the answer broke off after {parts} of its parts" if parts else ""


class Course:
    """The tries of a call.

    Args:
        fleet: The servers.
        place: Where the call should go.
        losses: Of the call.
        rounds: How often all servers are asked again when none could be reached.
        asks_again: Whether a server is asked again whose word was lost.
    """

    def __init__(self, fleet: Fleet, place: Place, losses: Losses, rounds: int, *, asks_again: bool = True) -> None:
        self._fleet = fleet
        self._place = place
        self._losses = losses
        self._rounds = rounds
        self._asks_again = asks_again
        self._round = 0
        self._tried: list[Member] = []
        self._lacked: grpc.RpcError | None = None
        self._untold = 0

    def next(self) -> Member:
        """The server to ask, which counts as busy until `Fleet.busy` around the call is left."""
        member = self._fleet.pick(self._place, self._tried)
        if member is None:  # They all left meanwhile.
            self._tried.clear()
            member = self._fleet.pick(self._place)
        assert member is not None, "there is always a server to ask"  # noqa: S101
        return member

    @property
    def is_given_up(self) -> bool:
        """Whether servers were lost with the call, and no more are to be."""
        return self._losses.are_enough

    def busy(self, member: Member) -> AbstractContextManager[None]:
        """Around the call to a server."""
        return self._fleet.busy(member)

    def succeeded(self, member: Member) -> None:
        """It has answered."""
        member.failed = False

    def failed(self, member: Member, error: grpc.RpcError) -> float | None:
        """Seconds after which to ask the next server; None when the failure stands, which `verdict` gives."""
        failure, details = failure_of(error)
        if failure not in _OF_THE_SERVER:
            self.succeeded(member)
        if failure is None:
            return None
        if failure is Failure.UNTOLD:  # Asked again it says what it said.
            self._untold += 1
            return FIRST_PAUSE_S if self._asks_again and self._untold < MAX_UNTOLD else None
        self._tried.append(member)
        if failure is Failure.ELSEWHERE:
            member.name = details.metadata.get(routing.HOLDER, "")
        if failure in {Failure.ELSEWHERE, Failure.LACKING}:
            self._lacked = error
        if failure in _OF_THE_SERVER:
            self._fleet.failed(member)
        self._losses.count += failure is Failure.LOST
        return self._pause(failure)

    def interrupted(self, member: Member, error: grpc.RpcError) -> float | None:
        """As `failed`, of a call that has begun: seconds after which it may go on at another server.

        Of a single address, too, which may stand for several servers or one that is started anew.
        """
        failure, details = failure_of(error)
        is_lost = failure in {Failure.LOST, Failure.UNTOLD}
        if not is_lost and details.reason != DRAINING:
            return None
        self._fleet.failed(member)
        self._losses.count += is_lost
        if self._losses.are_enough:
            return None
        return 0.0 if len(self._fleet) > 1 else FIRST_PAUSE_S

    def verdict(self, error: grpc.RpcError) -> grpc.RpcError:
        """What to tell the caller: that there is no such picture or model says more than that a server is gone."""
        return self._lacked or error

    def _pause(self, failure: Failure) -> float | None:
        if self._losses.are_enough or (not self._rounds and failure is not Failure.ELSEWHERE):
            return None
        if any(member not in self._tried for member in self._fleet):
            # What ended one server may be ending others, as when a rack loses its power: they are seen to be gone then.
            return FIRST_PAUSE_S if failure is Failure.LOST else 0.0
        if failure is Failure.FULL or self._lacked or self._round == self._rounds:
            return None
        pause_s = min(FIRST_PAUSE_S * 3**self._round, MAX_PAUSE_S)
        self._round += 1
        self._tried.clear()
        return float(pause_s * random.uniform(0.8, 1.2))  # noqa: S311  # no secret


def _said_by_grpc(code: grpc.StatusCode, said: str) -> Failure | None:
    if code is grpc.StatusCode.INTERNAL and said == "Internal error from Core":
        return Failure.UNTOLD
    if code is grpc.StatusCode.UNAVAILABLE:
        return Failure.UNREACHED if re.search(_UNREACHED, said) else Failure.LOST
    ended = {
        grpc.StatusCode.UNKNOWN: "Stream removed",
        grpc.StatusCode.INTERNAL: "RST_STREAM",
        # By a server whose time to drain is over; our own cancellations say more.
        grpc.StatusCode.CANCELLED: "^(CANCELLED|Cancelled on the server side)?$",
    }
    return Failure.LOST if code in ended and re.search(ended[code], said) else None


def _details(call: Any) -> ErrorDetails:
    try:
        status = rpc_status.from_call(call)
    except ValueError:  # a proxy changed the code or the message
        status = None
    return ErrorDetails() if status is None else unpack(status)
