"""A Ray cluster that grows with its queue, and is upgraded under load: sudo python benchmarks/growing.py.

On hosts of their own, workers come on another one while queues are long, never more than `ray_max_workers`, and leave
when there is nothing to do. Then a front with other settings, which has workers of its own, takes the place of the one
before. Every answer is checked, as by cluster.py.
"""

import time
from collections.abc import Callable, Sequence

from cluster import Callers
from harness.hosts import Host, hosts
from harness.nodes import FIXED, START_S, RayCluster, RayFront, begin

SERVICE_MS = 60
HELD_S = 10.0  # For so long no third worker comes.


def front(host: Host, cluster: RayCluster, most: int, *flags: str) -> RayFront:
    """A front with a worker at least and so many at most."""
    workers = ["--ray-min-workers=1", f"--ray-max-workers={most}", "--ray-idle-s=5"]
    return RayFront(host, cluster, [f"--models={FIXED}", *workers, *flags])


def until(what: str, probe: Callable[[], bool], cluster: RayCluster) -> None:
    """Waits, has nodes run meanwhile, which Ray ends when they take long to begin, and tells how long it took."""
    began = time.monotonic()
    while not probe():
        if time.monotonic() - began > START_S:
            raise SystemExit(f"{what}: never")
        for node in cluster.nodes:
            if not node.host.runs:
                node.start()
        time.sleep(0.2)
    print(f"{what}: after {time.monotonic() - began:.1f} s", flush=True)


def told(what: str, load: Callers) -> None:
    """Says what callers got."""
    faults = [each.fault for each in load.asked if each.fault]
    print(f"{what}: {len(load.asked)} calls, {len(faults)} faults", *faults[:3], flush=True)


def grow(cluster: RayCluster, host: Host) -> None:
    """From one worker to two and back."""
    one = front(host, cluster, most=2)
    one.start()
    until("one worker", one.works, cluster)
    with Callers(one.address, 32) as load:
        until("two workers, on two hosts", lambda: len(set(one.workers())) == 2, cluster)
        time.sleep(HELD_S)
        assert len(one.workers()) == 2, one.workers()
    told("meanwhile", load)
    until("one worker, idle", lambda: len(one.workers()) == 1, cluster)
    one.host.terminate()


def upgrade(cluster: RayCluster, places: Sequence[Host]) -> None:
    """From a front to another with other settings of workers."""
    old, new = front(places[0], cluster, 1), front(places[1], cluster, 1, "--max-batch=3")
    old.start()
    until("the old front", old.works, cluster)
    with Callers(f"{old.address},{new.address}", 16) as load:
        new.start()
        until("the new front", new.works, cluster)
        assert set(old.workers()).isdisjoint(new.workers())
        old.host.terminate()
        asked = len(load.asked)
        until("answers of the new front alone", lambda: len(load.asked) > asked + 100, cluster)
    told("meanwhile", load)


def main() -> None:
    """Does both."""
    with hosts(5) as made:
        cluster = RayCluster(made[0], [], made[3:], SERVICE_MS)
        begin(cluster.head)
        for node in cluster.nodes:
            node.start()
        grow(cluster, made[1])
        upgrade(cluster, made[1:3])


if __name__ == "__main__":
    main()
