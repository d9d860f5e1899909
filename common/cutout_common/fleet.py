"""Several equal servers, and which of them a call goes to: consistent hashing with bounded loads.

Every picture ranks the servers by a hash of both (rendezvous hashing, Thaler and Ravishankar 1998): equal pictures go
to one server, and a server that comes or goes moves its own share of the pictures alone. A server that has more than
its share of the calls under way is passed over (Mirrokni, Thorup and Zadimoghaddam 2016), and so is one that failed of
late.
"""

import math
import random
import threading
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import blake2b
from typing import TypeVar

from cutout_common.routing import Place

T = TypeVar("T")

# So much more than the mean may a server have, and so many calls at least: few calls are no load.
_BALANCE = 1.25
_FEW = 8
# A server that failed is left alone for so long. Then one call at a time tries it, until one succeeds.
REST_S = 2.0


@dataclass(eq=False)
class Member:
    """One of the servers.

    Attributes:
        address: Where it is, as gRPC takes it.
        name: What ids of stored pictures call it; empty until an answer told.
        in_flight: Our calls that it works on.
        failed: Whether it did not answer when it was last asked.
        rests_until: Until when it is left alone for that, on the clock of time.monotonic.
    """

    address: str
    name: str = ""
    in_flight: int = 0
    failed: bool = False
    rests_until: float = 0.0

    def is_ready(self) -> bool:
        """Whether a call may go to it."""
        return not self.failed or (self.in_flight == 0 and time.monotonic() >= self.rests_until)


def first(members: Sequence[T], key: str, name: Callable[[T], str], in_flight: Callable[[T], int]) -> T:
    """The first in a picture's order that is not above its share of what is under way, with the picture's own call."""
    under_way = 1 + sum(map(in_flight, members))
    share = max(_FEW, math.ceil(_BALANCE * under_way / len(members)))

    def rank(member: T) -> bytes:
        return blake2b(f"{key} {name(member)}".encode(), digest_size=8).digest()

    return next(member for member in sorted(members, key=rank) if in_flight(member) < share)


class Fleet:
    """The servers that there are now. Threads may share it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._members: tuple[Member, ...] = ()

    def __iter__(self) -> Iterator[Member]:
        return iter(self._members)

    def __len__(self) -> int:
        return len(self._members)

    def become(self, addresses: Sequence[str]) -> None:
        """From now on these are the servers; those that were there before are as they were."""
        with self._lock:
            known = {member.address: member for member in self._members}
            if tuple(known) != tuple(addresses):
                self._members = tuple(known.get(address) or Member(address) for address in dict.fromkeys(addresses))

    def pick(self, place: Place, without: Collection[Member] = ()) -> Member | None:
        """The server for a call, which counts there from now on; None when all are among those to do without."""
        with self._lock:
            members = [member for member in self._members if member not in without]
            if not members:
                return None
            ready = [member for member in members if member.is_ready()] or members
            member = self._holder(ready, place) or self._first(ready, place.key)
            member.in_flight += 1
            return member

    @contextmanager
    def busy(self, member: Member) -> Iterator[None]:
        """Around a call to a server that was picked."""
        try:
            yield
        finally:
            with self._lock:
                member.in_flight -= 1

    @staticmethod
    def failed(member: Member) -> None:
        """Leaves a server alone for a while."""
        member.failed, member.rests_until = True, time.monotonic() + REST_S

    @staticmethod
    def _holder(members: Sequence[Member], place: Place) -> Member | None:
        return next((member for member in members if place.server and member.name == place.server), None)

    @staticmethod
    def _first(members: Sequence[Member], key: str) -> Member:
        """The one for a picture; without a picture, one that has least to do."""
        if not key:
            return min(members, key=lambda member: (member.in_flight, random.random()))  # noqa: S311  # no secret
        return first(members, key, lambda member: member.address, lambda member: member.in_flight)
