"""Many sessions that follow objects at once: each gets its own answers, all get on, nothing is left of them."""

import itertools
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
from conftest import RunningServer, run_server
from cutout.v1 import tracking_service_pb2 as pb2
from cutout.v1 import tracking_service_pb2_grpc
from prometheus_client.parser import text_string_to_metric_families
from test_service_tracking import Live, boxed, frame, picture
from videos import upload, video
from waiting import PATIENCE_S, wait_until

SESSIONS = 20
FRAMES = 2
STARTS = 2  # Sessions begin at so many places.


@pytest.fixture(scope="module")
def server() -> Iterator[RunningServer]:
    """Whose counters nothing else moves."""
    with run_server() as running:
        yield running


def followed(server: RunningServer, number: int, start: int) -> list[pb2.TrackedFrame]:
    """What a session on a connection of its own is answered, frame by frame."""
    with server.channel() as channel:
        live = Live(channel)
        indices = range(start, start + FRAMES)
        return [
            live.ask(frame(index, *([boxed(number, start)] if index == start else []))).frame for index in indices
        ] + [answer.frame for answer in live.end()]


def rle(found: list[pb2.TrackedFrame]) -> list[tuple[int, bytes]]:
    return [(each.frame_index, each.objects[0].masks[0].rle.counts) for each in found]


def tracked_frames(server: RunningServer) -> dict[str, float]:
    """By model, as Prometheus sees them."""
    families = text_string_to_metric_families(httpx.get(server.metrics_url, timeout=PATIENCE_S).text)
    samples = (sample for family in families for sample in family.samples)
    return {each.labels["model"]: each.value for each in samples if each.name == "cutout_tracked_frames_total"}


def test_many_sessions_at_once_get_their_own_answers(server: RunningServer):
    """As if each were alone, beside one that sends without end; then nothing is remembered, and no slot is taken."""
    alone = [rle(followed(server, 1, start)) for start in range(STARTS)]
    over = threading.Event()
    with server.channel() as channel, ThreadPoolExecutor(SESSIONS) as pool:
        opening = [pb2.TrackObjectsRequest(open={}), frame(0, boxed(1))]
        endless = (frame(index) for index in itertools.takewhile(lambda _: not over.is_set(), itertools.count(1)))
        greedy = tracking_service_pb2_grpc.TrackingServiceStub(channel).TrackObjects(itertools.chain(opening, endless))
        assert next(greedy).HasField("opened")
        many = list(
            pool.map(
                lambda number: followed(server, number, number % STARTS), range(1, SESSIONS + 1), timeout=PATIENCE_S
            )
        )
        over.set()
        assert all(answer.HasField("frame") for answer in greedy)
    for number, answers in enumerate(many, 1):
        assert [[each.object_id for each in answer.objects] for answer in answers] == [[number]] * FRAMES
        assert rle(answers) == alone[number % STARTS]
    wait_until(lambda: server.app.status().tracking.sessions == 0)
    status = server.app.status()
    assert (status.tracking.memory_bytes, status.tracking.objects) == (0, 0)
    assert all(device.requests == 0 for device in status.devices)


def test_frames_are_counted_by_the_model_that_follows():
    """From 0 on, of live sessions and of stored videos."""
    with run_server() as server, server.channel() as channel:
        assert tracked_frames(server) == {"builtin": 0}
        followed(server, 1, 0)
        assert tracked_frames(server) == {"builtin": FRAMES}
        stored = upload(channel, video([picture(index) for index in range(2)]))
        request = pb2.TrackVideoRequest(video_id=stored.video_id, prompts=[{"frame": 0, "prompts": [boxed(1)]}])
        list(tracking_service_pb2_grpc.TrackingServiceStub(channel).TrackVideo(request, timeout=PATIENCE_S))
        assert tracked_frames(server) == {"builtin": FRAMES + 2}
