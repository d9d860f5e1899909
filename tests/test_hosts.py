"""Hosts with networks of their own, which lose their power, their network or their disk: a Ray cluster of them.

They are shared by all tests, each of which leaves them whole.
"""

import queue
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path

import pytest
from cutout_client import Client
from cutout_client.errors import UnavailableError
from test_service_tracking import SIDE, picture, place
from waiting import PATIENCE_S, wait_until

sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))

from cluster import Callers
from harness import hosts
from harness.faults import FAULTS, Site
from harness.nodes import FIXED, RayCluster, begin

TOP, LEFT = place(0)
CUP = (LEFT, TOP, LEFT + SIDE, TOP + SIDE)
CALLERS = 8
SILENT_S = 12.0  # Longer than a worker may be silent.

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(find_spec("ray") is None, reason="the package ray is not installed: pip install ray"),
]


@pytest.fixture(scope="module")
def cluster() -> Iterator[RayCluster]:
    """A head, two fronts and two nodes."""
    if why := hosts.lacking():
        pytest.skip(why)
    with hosts.hosts(5) as made:
        cluster = RayCluster(made[0], made[1:3], made[3:], models=[FIXED, '{"name":"builtin","family":"builtin"}'])
        cluster.begin()
        yield cluster


@pytest.mark.parametrize(("fault", "seconds"), [("kill", 0), ("cut", SILENT_S), ("front", 0), ("head", 3), ("full", 3)])
def test_no_request_is_lost(cluster: RayCluster, fault: str, seconds: float):
    """Each is answered, once, and by its own picture's and prompt's mask, whatever befalls a host, and after that."""
    site = Site(cluster.address, cluster.nodes, cluster.fronts, cluster.head)
    with Callers(cluster.address, CALLERS) as load:

        def go_on() -> None:
            """Returns when all have been answered twice more."""
            asked = len(load.asked)
            wait_until(lambda: len(load.asked) >= asked + 2 * CALLERS)

        go_on()
        for step in FAULTS[fault](site, seconds):
            step.event()
            go_on()
    assert [each.fault for each in load.asked if each.fault] == []


def test_what_is_lost_with_the_last_node_is_told(cluster: RayCluster):
    """A request waits for another node and is told that there is none; when one comes, what a tracker remembered is."""
    go_on: queue.SimpleQueue[int | None] = queue.SimpleQueue()
    front, *_ = cluster.fronts
    with Client(front.address, retries=0) as client, ThreadPoolExecutor(1) as caller:
        frames = map(picture, iter(go_on.get, None))
        with client.live(frames, boxes=CUP, resume=False, segmenter="builtin") as live:
            go_on.put(0)
            assert next(live)[0].present
            hosts.kill(*(node.host for node in cluster.nodes))
            go_on.put(1)
            lost = caller.submit(next, live)
            wait_until(lambda: not client.status().devices)
            with pytest.raises(UnavailableError) as none:
                client.segment_box(picture(0), CUP)
            assert none.value.reason == "NO_WORKERS"
            assert none.value.retry_after_s
            assert client.health() == "not_serving"
            begin(cluster.nodes[0])
            assert client.segment_box(picture(0), CUP)
            go_on.put(None)
            with pytest.raises(UnavailableError) as gone:
                lost.result(PATIENCE_S)
            assert gone.value.reason == "OBJECTS_LOST"
        with client.live([picture(0)], boxes=CUP, segmenter="builtin") as again:
            assert [found[0].present for found in again] == [True]
