"""A Ray cluster: its workers are asked as a server's devices are, killed under load, and shared by several fronts."""

import contextlib
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path

import grpc
import psutil
import pytest
from conftest import Photo, RunningServer, Stubs, run_server
from cutout.v1 import segmentation_service_pb2 as pb2
from cutout_client import Client, CutoutError
from cutout_client.results import Segmentation
from cutout_server.settings import Settings
from pydantic import ValidationError
from ray_cluster import Cluster, Front, ray_cluster, run_front
from replicas import BOX, pictures
from spans import Received, collected
from test_service_tracking import Live, boxed, decoded, frame, saying
from waiting import PATIENCE_S, wait_until

from tools import free_port

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(find_spec("ray") is None, reason="the package ray is not installed: pip install ray"),
]

PICTURES = 10
CALLERS = 16
ASKED = 12  # By each.


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with ray_cluster(tmp_path_factory.mktemp("cluster"), cpus=4) as running:
        yield running


@pytest.fixture(scope="module")
def traced() -> Iterator[tuple[str, list[Received]]]:
    """Where spans are exported to, and those that were."""
    with collected() as collector:
        yield collector


@pytest.fixture(scope="module")
def flags(traced: tuple[str, list[Received]]) -> list[str]:
    return ["--ray-min-workers", "2", "--ray-max-workers", "2", "--trace-endpoint", traced[0]]


@pytest.fixture(scope="module")
def front(cluster: Cluster, flags: list[str]) -> Iterator[Front]:
    with cluster.front(*flags) as running:
        with Client(running.address) as client:
            wait_until(lambda: len(client.status().devices) == 2)
        yield running


@pytest.fixture(scope="module")
def client(front: Front) -> Iterator[Client]:
    with Client(front.address) as opened:
        yield opened


@pytest.fixture(scope="module")
def local() -> Iterator[RunningServer]:
    """A server with a device of its own."""
    with run_server() as running:
        yield running


@pytest.fixture(scope="module")
def files() -> list[bytes]:
    return pictures(PICTURES + 3)


def said(found: Segmentation) -> list[object]:
    """What was found, but for its scores."""
    return [(each.label, each.mask.tobytes()) for each in found.objects]


def test_objects_are_followed_by_workers(front: Front, local: RunningServer, cluster: Cluster):
    """Frame by frame as a server with a device of its own follows them, though a worker dies between two frames."""

    def followed(address: str, *, disturb: Callable[[], object] = lambda: None) -> list[object]:
        with grpc.insecure_channel(address) as channel:
            session = Live(channel)
            masks: list[object] = []
            for index in range(4):
                if index == 2:
                    disturb()
                message = frame(index, *([boxed(7)] if index == 0 else []))
                answer = session.ask(saying(message, *(["object"] if index == 1 else []))).frame
                masks.append([(found.object_id, decoded(found).tobytes()) for found in answer.objects])
            session.end()
            return masks

    expected = followed(local.address)
    assert all(expected)
    assert followed(front.address, disturb=cluster.workers()[0].kill) == expected
    whole(front)


def test_spans_of_workers_belong_to_the_requests_trace(
    front: Front, traced: tuple[str, list[Received]], files: list[bytes]
):
    """Below the front's span, which is below the caller's; and below the worker's each of its stages.

    They tell what a box costs: one question to its worker, and the pixels of a new picture are put once.
    """
    rpc_name, above = "cutout.v1.SegmentationService/SegmentByBox", "00f067aa0ba902b7"

    def asked(trace: str, x_max: float) -> tuple[dict[str, list[Received]], dict[str, list[Received]]]:
        """The front's spans of a box on always the same picture, by their names, and the worker's."""
        request = pb2.SegmentByBoxRequest(
            image={"content": files[PICTURES - 1]}, boxes=[{"x_min": 9, "x_max": x_max, "y_min": 9, "y_max": 60}]
        )
        with front.channel() as channel:
            metadata = [("traceparent", f"00-{trace}-{above}-01")]
            Stubs.over(channel).segmentation.SegmentByBox(request, metadata=metadata, timeout=PATIENCE_S)

        def ended() -> tuple[dict[str, list[Received]], dict[str, list[Received]]] | None:
            found: dict[str, dict[str, list[Received]]] = {"cutout-server": {}, "cutout-worker": {}}
            for span in (span for span in traced[1] if span.trace == trace):
                found[span.service].setdefault(span.name, []).append(span)
            own, workers = found.values()
            return (own, workers) if rpc_name in own and "worker/prompt" in workers else None

        own, workers = wait_until(ended)
        (rpc,), (_,), (worker,) = own[rpc_name], own["worker"], workers["worker/prompt"]
        assert (rpc.above, worker.above) == (above, rpc.span)
        for stage in ("prompt", "masks"):
            (each,) = workers[stage]
            assert each.above == worker.span
        return own, workers

    own, workers = asked("4bf92f3577b34da6a3ce929d0e0e4736", 80)
    (encode,), (worker,) = workers["encode"], workers["worker/prompt"]
    assert encode.above == worker.span
    assert len(own["put"]) == 1
    own, workers = asked("4bf92f3577b34da6a3ce929d0e0e4737", 90)
    assert "put" not in own
    assert {"encode", "worker/encode"}.isdisjoint(workers)


def test_upgrades_roll_without_a_loss(cluster: Cluster, files: list[bytes], local: RunningServer):
    """A front with other settings has workers of its own before the one before it drains, under load all the time."""
    with Client(local.address) as own:
        expected = [said(own.segment_box(file, BOX)) for file in files[:PICTURES]]
    answered: Counter[str] = Counter()
    over = threading.Event()

    def ask(client: Client, number: int) -> None:
        while not over.is_set():
            number += 1
            try:
                found = said(client.segment_box(files[number % PICTURES], BOX))
                answered["right" if found == expected[number % PICTURES] else "wrong"] += 1
            except CutoutError as error:
                answered[str(error)] += 1

    one = ["--ray-min-workers", "1", "--ray-max-workers", "1"]
    with contextlib.ExitStack() as old, contextlib.ExitStack() as new:
        first = old.enter_context(cluster.front(*one))
        before = {worker.pid for worker in cluster.workers()}
        port = free_port()
        client = new.enter_context(Client(f"{first.address},127.0.0.1:{port}"))
        callers = [threading.Thread(target=ask, args=(client, number)) for number in range(4)]
        new.callback(lambda: [over.set(), *(caller.join(PATIENCE_S) for caller in callers)])
        for caller in callers:
            caller.start()
        wait_until(lambda: answered["right"] > 8)
        second = new.enter_context(cluster.front(*one, "--max-batch", "3", port=port))
        after = {worker.pid for worker in cluster.workers()}
        assert before < after
        asked = answered["right"]
        wait_until(lambda: answered["right"] > asked + 8)
        old.close()
        asked = answered["right"]
        wait_until(lambda: answered["right"] > asked + 8)
        assert second.sum("cutout_batch_size_count") > 0
        over.set()
        for caller in callers:
            caller.join(PATIENCE_S)
    assert set(answered) == {"right"}


def whole(front: Front) -> None:
    """Waits until both workers answer."""

    def both() -> bool:
        with contextlib.suppress(CutoutError):
            return len(client.load_model("builtin").loaded_on) == 2
        return False

    with Client(front.address, retries=0) as client:
        wait_until(both)


def test_a_picture_is_encoded_once_by_all_workers(
    cluster: Cluster, front: Front, flags: list[str], files: list[bytes], client: Client
):
    """Whichever front prompts come by, and two fronts share the workers."""

    def encoded() -> float:
        for each in (client, other):  # Which so hears what workers have done up to now.
            each.load_model("builtin")
        return sum(each.sum("cutout_batch_size_sum", operation="encode") for each in (front, second))

    workers = {worker.pid for worker in cluster.workers()}
    with cluster.front(*flags) as second, Client(second.address) as other:
        wait_until(lambda: len(other.status().devices) == 2)
        before = encoded()
        for asked in (client, client, client, other, other):
            asked.segment_box(files[PICTURES], BOX)
        client.segment_box(files[PICTURES + 1], BOX)
        other.segment_box(files[PICTURES + 2], BOX)
        assert encoded() == before + 3
    assert {worker.pid for worker in cluster.workers()} == workers


def test_a_worker_that_dies_costs_no_request(
    front: Front, client: Client, cluster: Cluster, files: list[bytes], local: RunningServer
):
    """Under sixteen callers each request gets its own picture's mask, once, though a worker is killed meanwhile."""
    with Client(local.address) as own:
        expected = [said(own.segment_box(file, BOX)) for file in files[:PICTURES]]
    answered: Counter[str] = Counter()
    killed = threading.Event()

    def ask(number: int) -> None:
        for turn in range(ASKED):
            picture = (number + turn) % PICTURES
            try:
                found = said(client.segment_box(files[picture], BOX))
                answered["right" if found == expected[picture] else "wrong"] += 1
            except CutoutError as error:
                answered[error.reason] += 1
            if turn == ASKED // 2:  # So that some are asked after it was killed.
                killed.wait(PATIENCE_S)

    callers = [threading.Thread(target=ask, args=(number,)) for number in range(CALLERS)]
    for caller in callers:
        caller.start()
    wait_until(lambda: answered["right"] > CALLERS)
    cluster.workers()[-1].kill()
    killed.set()
    for caller in callers:
        caller.join(PATIENCE_S)
    assert answered == {"right": CALLERS * ASKED}
    whole(front)


def test_without_an_address_a_front_has_a_cluster_of_its_own(
    cluster: Cluster, front: Front, photos: dict[str, Photo], tmp_path: Path
):
    """It ends with the server. A worker more comes while the queue is long, and leaves when there is nothing to do."""
    request = pb2.SegmentEverythingRequest(image={"content": photos["coffee"].jpeg})
    flags = ["--ray-max-workers", "2", "--ray-idle-s", "1", "--ray-worker-cpus", "0.5"]
    with run_front(tmp_path, cluster.env, *flags) as own, Client(own.address) as client:
        assert len(client.status().devices) == 1
        with own.channel() as channel:
            ask = Stubs.over(channel).segmentation.SegmentEverything
            asked = [ask.future(request, timeout=PATIENCE_S) for _ in range(24)]
            wait_until(lambda: len(client.status().devices) == 2)
            for each in asked:
                each.cancel()
        wait_until(lambda: len(client.status().devices) == 1)
        assert client.status().devices[0].name.endswith("worker-0")


def test_callers_that_leave_and_deadlines_reach_the_worker(front: Front, files: list[bytes]):
    """What nobody waits for any more is dropped from the worker's queue."""
    request = pb2.SegmentEverythingRequest(image={"content": files[0]})
    before = front.sum("cutout_jobs_dropped_total")
    with front.channel() as channel:
        ask = Stubs.over(channel).segmentation.SegmentEverything
        first, *others = [ask.future(request, timeout=PATIENCE_S) for _ in range(24)]
        late = ask.future(request, timeout=0.2)
        assert late.exception().code() is grpc.StatusCode.DEADLINE_EXCEEDED
        for other in others:
            other.cancel()
        assert first.result().segmentation.objects
    wait_until(lambda: front.sum("cutout_jobs_dropped_total") > before)


def test_a_request_that_two_workers_die_with_is_given_up(
    front: Front, client: Client, cluster: Cluster, photos: dict[str, Photo]
):
    """Whatever ends its worker gets no third one, and the caller is told."""
    with ThreadPoolExecutor(1) as caller:
        asked = caller.submit(client.segment_everything, photos["chelsea"].jpeg)
        while not asked.done():
            if any(device.requests for device in client.status().devices):
                for worker in cluster.workers():
                    with contextlib.suppress(psutil.NoSuchProcess):
                        worker.kill()
        assert asked.exception().reason == "SERVERS_LOST"
    whole(front)


def test_the_status_tells_of_every_worker(front: Front, client: Client):
    """With its node in its name; models are loaded and unloaded at each, or at one."""
    names = sorted(device.name for device in client.status().devices)
    assert len({name.split("/")[0] for name in names}) == 1
    assert [name.split("/")[1] for name in names] == ["worker-0", "worker-1"]
    assert client.load_model("builtin").loaded_on == tuple(names)
    assert all("builtin" in device.models and device.model_bytes > 0 for device in client.status().devices)
    assert client.unload_model("builtin", device=names[0]).loaded_on == (names[1],)
    assert front.sum("cutout_model_loaded", model="builtin") == 1
    with pytest.raises(CutoutError, match="has no device"):
        client.load_model("builtin", device="cpu")


def test_settings_of_a_cluster_fit_together():
    """What cannot work is refused before anything starts."""
    assert Settings(engine="ray").cluster == "ray"
    for wrong in (
        {"ray_address": "head:6379"},
        {"cluster": "ray", "devices": ("cpu", "cuda:0")},
        {"cluster": "ray", "ray_min_workers": 3, "ray_max_workers": 2},
        {"cluster": "ray", "embeddings_cache_bytes": 0},
        {"cluster": "ray", "ray_address": "ray://head:10001"},
    ):
        with pytest.raises(ValidationError):
            Settings(**wrong)
