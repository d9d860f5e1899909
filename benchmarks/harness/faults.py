"""What befalls hosts while callers ask, one thing after the other."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import partial

from harness import hosts
from harness.nodes import Envoy, Node, begin

SLOW_S = 0.1  # Each way.
AHEAD_S = 3600


@dataclass(frozen=True)
class Site:
    """What callers ask, and what else there is to lose.

    Attributes:
        address: Of all that may be asked, with commas between.
        nodes: Those that compute.
        fronts: Those that ask the nodes of a Ray cluster.
        head: Of such a cluster.
        balancers: Before servers or fronts.
    """

    address: str
    nodes: Sequence[Node]
    fronts: Sequence[Node] = ()
    head: Node | None = None
    balancers: Sequence[Envoy] = ()

    def restore(self) -> None:
        """Starts again what has ended by itself: Ray ends a node that its head gave up."""
        begin(*(each for each in [*self.fronts, *self.nodes] if not each.host.runs))


@dataclass(frozen=True)
class Step:
    """One thing that happens.

    Attributes:
        name: What is so then.
        event: Makes it so, and returns when nothing more is to be done.
        lost: How many nodes do not compute meanwhile.
        is_over: Whether the event has lasted as long as it should.
    """

    name: str
    event: Callable[[], object] = field(default=lambda: None)
    lost: int = 0
    is_over: bool = False


def lasting(state: AbstractContextManager[None], seconds: float) -> None:
    """Lets something be so for a while."""
    with state:
        time.sleep(seconds)


def kill(site: Site, _: float) -> Iterator[Step]:
    """A host loses its power."""
    node = site.nodes[0]
    yield Step("one killed", partial(hosts.kill, node.host), lost=1)
    yield Step("one added", partial(begin, node))


def two(site: Site, _: float) -> Iterator[Step]:
    """Two at once."""
    lost = site.nodes[:2]
    yield Step("two killed at once", partial(hosts.kill, *(node.host for node in lost)), lost=2)
    yield Step("two added", partial(begin, *lost))


def drain(site: Site, _: float) -> Iterator[Step]:
    """A host is asked to end."""
    node = site.nodes[1]
    yield Step("one drains", node.host.terminate, lost=1)
    yield Step("one added again", partial(begin, node))


def cut(site: Site, seconds: float) -> Iterator[Step]:
    """A host loses its network, and nobody is told."""
    yield Step(
        f"one cut off for {seconds:.0f} s",
        lambda: lasting(site.nodes[-1].host.cut_off(), seconds),
        lost=1,
        is_over=True,
    )
    yield Step("let back", site.restore)


def slow(site: Site, seconds: float) -> Iterator[Step]:
    """A host is far away."""
    yield Step("one slow by 200 ms", lambda: lasting(site.nodes[0].host.slow(SLOW_S), seconds), is_over=True)


def hang(site: Site, seconds: float) -> Iterator[Step]:
    """A host stops, and its connections stay."""
    yield Step(
        f"one hangs for {seconds:.0f} s", lambda: lasting(site.nodes[-1].host.hung(), seconds), lost=1, is_over=True
    )
    yield Step("going on", site.restore)


def full(site: Site, seconds: float) -> Iterator[Step]:
    """A host's disk is full."""
    yield Step("one with a full disk", lambda: lasting(site.nodes[0].host.full(), seconds), is_over=True)


def clock(site: Site, _: float) -> Iterator[Step]:
    """A host comes back with a clock that is wrong by an hour."""
    node = site.nodes[0]

    def again(ahead_s: int) -> None:
        hosts.kill(node.host)
        node.host.ahead_s = ahead_s
        begin(node)

    yield Step("one back, an hour ahead", partial(again, AHEAD_S))
    yield Step("one back, its clock right", partial(again, 0))


def front(site: Site, _: float) -> Iterator[Step]:
    """A server that only asks others loses its power."""
    lost = site.fronts[0]
    yield Step("a front killed", partial(hosts.kill, lost.host))
    yield Step("a front added", partial(begin, lost))


def head(site: Site, seconds: float) -> Iterator[Step]:
    """The head of the Ray cluster loses its power."""
    lost = site.head
    assert lost is not None, "of a cluster"

    def away() -> None:
        hosts.kill(lost.host)
        time.sleep(seconds)

    def back() -> None:
        begin(lost)
        site.restore()

    yield Step(f"no head for {seconds:.0f} s", away, is_over=True)
    yield Step("the head back", back)


def balancer(site: Site, _: float) -> Iterator[Step]:
    """A load balancer dies."""
    lost = site.balancers[0]
    yield Step("a balancer killed", lost.kill)
    yield Step("a balancer back", lost.start)


FAULTS: dict[str, Callable[[Site, float], Iterator[Step]]] = {
    each.__name__: each for each in (kill, two, drain, cut, slow, hang, full, clock, front, head, balancer)
}


def possible(site: Site) -> list[str]:
    """Those that a site can have."""
    lacking = {
        "two": len(site.nodes) < 3,
        "front": len(site.fronts) < 2,
        "head": site.head is None,
        "balancer": len(site.balancers) < 2,
    }
    return [name for name in FAULTS if not lacking.get(name)]
