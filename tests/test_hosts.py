"""A Ray cluster of several hosts, each with a network of its own: one loses its power, one its network."""

import json
import queue
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path

import pytest
from cutout_client import Client
from cutout_client.errors import UnavailableError
from test_service_tracking import SIDE, picture, place
from waiting import PATIENCE_S, wait_until

sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))

import cluster
from harness import hosts
from harness.nodes import RayCluster

TOP, LEFT = place(0)
CUP = (LEFT, TOP, LEFT + SIDE, TOP + SIDE)

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(find_spec("ray") is None, reason="the package ray is not installed: pip install ray"),
]


def test_no_request_is_lost_when_hosts_of_a_cluster_are(tmp_path: Path):
    """Each is answered, and by its own picture's and prompt's mask, while a node is killed, added, and cut off."""
    if why := hosts.lacking():
        pytest.skip(why)
    figures = tmp_path / "figures.json"
    flags = ["--faults", "kill", "cut", "--nodes", "2", "--seconds", "3", "--cut-s", "12", "--callers", "8"]
    command = [sys.executable, str(Path(cluster.__file__)), "--engine", "ray", *flags, "--json", str(figures)]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    phases = json.loads(figures.read_text())["phases"]
    assert len(phases) == 6
    assert all(phase["calls"] > 0 for phase in phases)
    assert [phase["faults"] for phase in phases] == [0] * len(phases), ran.stdout


def test_what_is_lost_with_the_only_node_is_told(tmp_path: Path):
    """A request waits for another node and is told that there is none; when one comes, what a tracker remembered is."""
    if why := hosts.lacking():
        pytest.skip(why)
    go_on: queue.SimpleQueue[int | None] = queue.SimpleQueue()
    with hosts.hosts(3) as (head, front, only):
        cluster = RayCluster(head, front, [only], models='{"name":"builtin","family":"builtin"}')
        cluster.begin()
        (node,) = cluster.nodes
        with Client(cluster.address, retries=0) as client, ThreadPoolExecutor(1) as caller:
            frames = map(picture, iter(go_on.get, None))
            with client.live(frames, boxes=CUP, resume=False) as live:
                go_on.put(0)
                assert next(live)[0].present
                only.kill()
                go_on.put(1)
                lost = caller.submit(next, live)
                wait_until(lambda: not client.status().devices)
                with pytest.raises(UnavailableError) as none:
                    client.segment_box(picture(0), CUP)
                assert none.value.reason == "NO_WORKERS"
                assert none.value.retry_after_s
                assert client.health() == "not_serving"
                node.begin()
                assert client.segment_box(picture(0), CUP)
                go_on.put(None)
                with pytest.raises(UnavailableError) as gone:
                    lost.result(PATIENCE_S)
                assert gone.value.reason == "OBJECTS_LOST"
            with client.live([picture(0)], boxes=CUP) as again:
                assert [found[0].present for found in again] == [True]
