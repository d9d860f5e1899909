"""Whose turn it is on a device: callers in rounds, and of one caller's requests the one with the earliest deadline."""

import itertools
from dataclasses import dataclass, field


@dataclass(eq=False)
class Turn:
    """One request's place in the order; made by `FairQueue`."""

    caller: str
    deadline_s: float
    number: int
    round: int | None = None


@dataclass
class _Caller:
    round: int
    turns: set[Turn] = field(default_factory=set)


class FairQueue:
    """Start-time fair queueing of requests, each of one unit (Goyal, Vin, Cheng 1996).

    A caller's round grows with each of its requests that begins; the caller with the lowest round is next, so that a
    hundred requests of one do not stand before the first of another. Who comes anew begins in the round of the oldest
    request that is not done, so that not even those that have begun stand before its first. A request that has begun
    keeps its place until it is done: finishing it soon is better for all than beginning many.
    """

    def __init__(self) -> None:
        self._callers: dict[str, _Caller] = {}
        self._numbers = itertools.count()

    def take(self, caller: str, deadline_s: float) -> Turn:
        """A place for a request; `give_back` ends it."""
        now = min((self.order(turn)[0] for waiting in self._callers.values() for turn in waiting.turns), default=0)
        turn = Turn(caller, deadline_s, next(self._numbers))
        self._callers.setdefault(caller, _Caller(now)).turns.add(turn)
        return turn

    def give_back(self, turn: Turn) -> None:
        """The request is over."""
        caller = self._callers[turn.caller]
        caller.turns.discard(turn)
        if not caller.turns:
            del self._callers[turn.caller]

    def begin(self, turn: Turn) -> None:
        """The request is served; does nothing when it was before."""
        if turn.round is None:
            caller = self._callers.get(turn.caller)
            if caller is not None:  # It may have been given back while its last job was on the way.
                turn.round = caller.round
                caller.round += 1

    def step_back(self, turn: Turn) -> None:
        """Puts a request behind all that wait now: what work of many long passes owes to the others."""
        turn.number, turn.round, turn.deadline_s = next(self._numbers), None, float("inf")

    def order(self, turn: Turn) -> tuple[int, float, int]:
        """What to sort by, the next one first."""
        if turn.round is not None:
            return (turn.round, turn.deadline_s, turn.number)
        caller = self._callers.get(turn.caller)
        return (caller.round if caller else 0, turn.deadline_s, turn.number)
