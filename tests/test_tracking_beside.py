"""A box beside frames of many objects, through the real stack: how many passes of theirs it waits for is counted."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from conftest import Stubs, encode, run_server
from cutout.v1 import segmentation_service_pb2, tracking_service_pb2_grpc
from cutout_server.models.builtin.tracking import BuiltinTracker
from cutout_server.models.operations import TRACK
from cutout_server.models.queries import Tracked, TrackQuery
from test_service_tracking import boxed, frame, opened, picture
from waiting import PATIENCE_S, wait_until

SESSIONS, OBJECTS = 4, 24
AT_ONCE = 2  # Objects in a pass.
KEYS = [{"caller": name, "key": name * 16} for name in ("a", "b")]


class Gate:
    """Holds each pass that follows objects until it is let through; lets all through in the end."""

    def __init__(self) -> None:
        self.passes = 0
        self.let = threading.Semaphore(0)
        self._track = BuiltinTracker.track

    def __enter__(self) -> "Gate":
        def held(tracker: BuiltinTracker, queries: list[TrackQuery]) -> list[Tracked]:
            self.passes += 1
            assert self.let.acquire(timeout=PATIENCE_S)
            return self._track(tracker, queries)

        BuiltinTracker.track = held
        return self

    def __exit__(self, *_: object) -> None:
        BuiltinTracker.track = self._track
        self.let.release(SESSIONS * OBJECTS)


@pytest.mark.parametrize("caller", ["a", "b"], ids=["the same caller", "another"])
def test_a_box_waits_for_a_few_passes_of_frames_of_many_objects(caller: str):
    """Not until they are done; then each of them is answered with every object."""
    with (
        run_server(api_keys=KEYS, max_batch=AT_ONCE) as server,
        server.channel() as channel,
        ThreadPoolExecutor(SESSIONS + 1) as pool,
        Gate() as gate,
    ):
        device = server.app.parts.pools.by_device["cpu"]

        def asked_else() -> bool:
            """Whether something else waits than objects that are followed."""
            return any(job.operation is not TRACK for job in list(device._waiting))

        def let_one_through() -> None:
            begun = gate.passes
            gate.let.release()
            wait_until(lambda: gate.passes > begun)

        track = tracking_service_pb2_grpc.TrackingServiceStub(channel).TrackObjects
        many = [opened(), frame(0, *(boxed(number) for number in range(1, OBJECTS + 1)))]
        sessions = [
            pool.submit(lambda: list(track(iter(many), metadata=[("x-api-key", "a" * 16)], timeout=PATIENCE_S)))
            for _ in range(SESSIONS)
        ]
        wait_until(lambda: len({job.turn for job in list(device._waiting)}) == SESSIONS)
        while asked_else() or gate.passes <= SESSIONS:
            let_one_through()
        request = segmentation_service_pb2.SegmentByBoxRequest(
            image={"content": encode(picture(3), ".png")}, boxes=[boxed(1, 3).box]
        )
        ask = Stubs.over(channel).segmentation.SegmentByBox
        box = pool.submit(ask, request, metadata=[("x-api-key", caller * 16)], timeout=PATIENCE_S)
        waited_for = 0
        while not box.done():
            wait_until(lambda: box.done() or asked_else())
            if not box.done():
                waited_for += 1
                let_one_through()
        assert len(box.result().segmentation.objects) == 1
        assert not any(session.done() for session in sessions)
        # The one under way, and what goes on or has waited longest; none between two passes of the box.
        assert waited_for <= 4
        gate.let.release(SESSIONS * OBJECTS)
        for session in sessions:
            _, answer = session.result(PATIENCE_S)
            assert len(answer.frame.objects) == OBJECTS
