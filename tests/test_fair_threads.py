"""Threads that several callers share: each has its turn, whatever the others bring."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError
from contextvars import copy_context

import pytest
from cutout_server import call_context
from cutout_server.callers.accounts import Account, party_of
from cutout_server.callers.quotas import Quotas
from cutout_server.pools.fair_queue import FairThreads
from waiting import PATIENCE_S, wait_until


class Observer:
    """Keeps what it hears."""

    def __init__(self) -> None:
        self.heard: list[str] = []

    def queue(self, where: str, waiting: Callable[[], int]) -> None:
        self.waiting = waiting

    def worked(self, where: str, waited_s: float, seconds: float) -> None:
        self.heard.append(where)


class Line:
    """One thread, held until `gate` is set; whose work was done, in order."""

    def __init__(self, threads: FairThreads) -> None:
        self.threads = threads
        self.done: list[str] = []
        self.gate = threading.Event()
        held = threading.Event()
        self.first = threads.submit(lambda: (held.set(), self.gate.wait(PATIENCE_S)))
        assert held.wait(PATIENCE_S)

    def add(self, caller: str, peer: str = "ipv4:10.0.0.1:1", deadline_s: float = float("inf"), name: str = ""):
        """A piece of work of a caller's."""

        def submit():
            account = Account(party_of(peer) if caller == call_context.ANONYMOUS else caller, caller, Quotas())
            call_context.begin(call_context.Call("id", caller, deadline_s, account=account))
            return self.threads.submit(self.done.append, name or caller)

        return copy_context().run(submit)


@pytest.fixture
def observer() -> Observer:
    return Observer()


@pytest.fixture
def line(observer: Observer) -> Iterator[Line]:
    with FairThreads(1, "test", observer) as threads:
        line = Line(threads)
        yield line
        line.gate.set()


def test_callers_take_turns(line: Line, observer: Observer):
    """One piece of each in a round, and of one caller's those that are wanted first."""
    pieces = [line.add("many", name=f"many {number}", deadline_s=100.0 - number) for number in range(4)]
    pieces += [line.add("one"), line.add("two"), line.add("two")]
    assert observer.waiting() == 7
    line.gate.set()
    for piece in pieces:
        piece.result(PATIENCE_S)
    assert line.done == ["many 3", "one", "two", "many 2", "two", "many 1", "many 0"]
    wait_until(lambda: observer.heard == ["test"] * 8)


def test_without_keys_addresses_take_turns(line: Line):
    """However many connections one has."""
    pieces = [line.add(call_context.ANONYMOUS, f"ipv4:10.0.0.1:{number}", name="many") for number in range(3)]
    pieces += [line.add(call_context.ANONYMOUS, "ipv6:[::1]:1", name="one")]
    line.gate.set()
    for piece in pieces:
        piece.result(PATIENCE_S)
    assert line.done == ["many", "one", "many", "many"]


def test_what_nobody_waits_for_is_not_begun(line: Line):
    """And takes nobody's turn."""
    left, stayed = line.add("a", name="left"), line.add("a", name="stayed")
    assert left.cancel()
    line.gate.set()
    stayed.result(PATIENCE_S)
    assert line.done == ["stayed"]


def test_errors_are_for_whoever_waits(line: Line):
    """The thread goes on."""
    failing = line.threads.submit(int, "x")
    line.gate.set()
    with pytest.raises(ValueError, match="invalid literal"):
        failing.result(PATIENCE_S)
    line.add("a").result(PATIENCE_S)


def test_the_end_lets_nobody_wait(line: Line):
    """What has not begun is cancelled."""
    waiting = line.add("a")
    line.threads.shutdown(wait=False, cancel_futures=True)
    line.gate.set()
    with pytest.raises(CancelledError):
        waiting.result(PATIENCE_S)
    assert line.done == []
