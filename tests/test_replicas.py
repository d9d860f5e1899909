"""Several servers as real processes: killed, drained and added under load, and each picture at one of them."""

import asyncio
import base64
import json
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import grpc
import httpx
import numpy as np
import pytest
from conftest import Stubs
from cutout.v1 import model_service_pb2
from cutout_client import AsyncClient, Client, CutoutError
from cutout_common.rle import rle_decode
from cutout_gateway.settings import GatewaySettings
from gateway_fixtures import GatewayThread
from replicas import BOX, Replica, Replicas, balanced, pictures, replicas
from test_service_tracking import SIDE as OBJECT
from test_service_tracking import iou, picture, place
from waiting import PATIENCE_S, wait_until

pytestmark = pytest.mark.slow

COUNT = 20
PROMPTS = 200
THREADS = 2
HANGS_S = 50.0  # Noticed after 20 s at most; by gRPC's own bound, after a minute.
Ask = Callable[[int], np.ndarray]


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Replicas]:
    with replicas(tmp_path_factory.mktemp("replicas"), 4) as four:
        yield four


@pytest.fixture(scope="module")
def files() -> list[bytes]:
    return pictures(COUNT)


def hit_rate(servers: Replicas, client: Client, files: list[bytes], prompts: int) -> float:
    """Of so many prompts about all pictures in turn, those whose picture's embedding was there."""
    before = servers.looked_up()
    for number in range(prompts):
        client.segment_box(files[number % len(files)], BOX, segmenter="probe")  # which costs nothing
    hits, misses = servers.looked_up() - before
    return hits / (hits + misses)


def test_a_picture_stays_where_its_embedding_is(servers: Replicas, files: list[bytes], tmp_path: Path):
    """Of 200 prompts on 20 pictures over three servers 95 % find the embedding, 90 % when a server has just come."""
    addresses = servers.run(0, 1, 2)
    with Client(addresses) as client:
        hit_rate(servers, client, files, COUNT)
        assert all(sum(replica.looked_up()) for replica in servers.each[:3])
        assert hit_rate(servers, client, files, PROMPTS) >= 0.95
        servers.run(0, 1, 2, 3)
        wait_until(lambda: hit_rate(servers, client, files, COUNT) < 1)  # its first pictures have come to it
        assert hit_rate(servers, client, files, PROMPTS) >= 0.9
        assert sum(servers.each[3].looked_up())
    with balanced(tmp_path, servers) as address, Client(address) as client:
        # As soon as Envoy has found all of them healthy, which on a busy machine one of them is not for a moment.
        wait_until(lambda: hit_rate(servers, client, files, PROMPTS) >= 0.95)


def by_client(client: Client, files: list[bytes]) -> Ask:
    return lambda number: client.segment_box(files[number], BOX)[0].mask


def by_id(client: Client, files: list[bytes]) -> Ask:
    """Pictures that were stored once, by a server that may be gone."""
    stored = [client.upload(file) for file in files]
    return lambda number: client.segment_box(stored[number], BOX)[0].mask


def in_pieces(client: Client, files: list[bytes]) -> Ask:
    """Whole answers that come as streams."""
    return lambda number: client.segment_box(files[number], BOX, mask_formats=["png"])[0].mask


def by_session(client: Client, files: list[bytes]) -> Ask:
    def ask(number: int) -> np.ndarray:
        with client.session(files[number]) as session:
            return session.box(BOX)[0].mask

    return ask


def by_rest(rest: httpx.Client, files: list[bytes]) -> Ask:
    def ask(number: int) -> np.ndarray:
        form = {"image.content": files[number], "boxes": (None, b'{"xMin":24,"yMin":24,"xMax":72,"yMax":72}')}
        answer = rest.post("/v1/segment:box", files=form)
        assert answer.status_code == 200, answer.text
        found = answer.json()["objects"][0]["masks"][0]["rle"]
        return rle_decode(*found["size"], found["counts"])

    return ask


class Load:
    """Callers that ask for one picture after the other, by each entrance, until they are told to stop."""

    def __init__(self, entrances: dict[str, Ask], expected: list[np.ndarray]) -> None:
        self.answers: Counter[str] = Counter()
        self.faults: list[str] = []
        self._expected = expected
        self._over = threading.Event()
        self._threads = [
            threading.Thread(target=self._go_on, args=(name, ask, first))
            for name, ask in entrances.items()
            for first in range(THREADS)
        ]
        self._names = tuple(entrances)

    def __enter__(self) -> "Load":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join(PATIENCE_S)

    def go_on(self, answers: int = 6) -> None:
        """Returns when every entrance has given so many more answers, or any a wrong one."""
        before = self.answers.copy()
        wait_until(lambda: self.faults or all(self.answers[name] >= before[name] + answers for name in self._names))
        assert not self.faults

    def _go_on(self, name: str, ask: Ask, first: int) -> None:
        number = first * 7
        while not self._over.is_set():
            number = (number + 1) % len(self._expected)
            try:
                if not np.array_equal(ask(number), self._expected[number]):
                    self.faults.append(f"{name}: another mask than that of picture {number}")
            except Exception as fault:  # noqa: BLE001 - whatever it is
                self.faults.append(f"{name}: {fault!r}")
            self.answers[name] += 1


def test_no_request_is_lost_when_servers_come_and_go(servers: Replicas, files: list[bytes], tmp_path: Path):
    """While one of three is killed, comes back and another drains, every answer is there, and is its own picture's."""
    addresses = servers.run(0, 1, 2)
    with ExitStack() as stack:
        client = stack.enter_context(Client(addresses))
        behind = stack.enter_context(Client(stack.enter_context(balanced(tmp_path, servers))))
        gateway = stack.enter_context(GatewayThread(GatewaySettings(server_address=addresses)))
        rest = stack.enter_context(httpx.Client(base_url=gateway.url, timeout=PATIENCE_S))
        expected = [by_client(client, files)(number) for number in range(COUNT)]
        assert len({mask.tobytes() for mask in expected}) == COUNT
        entrances = {
            "client": by_client(client, files),
            "stored": by_id(client, files),
            "streamed": in_pieces(client, files),
            "gateway": by_rest(rest, files),
            "balancer": by_client(behind, files),
        }
        with Load(entrances, expected) as load:
            load.go_on()
            servers.each[0].kill()
            load.go_on()
            servers.run(0, 1, 2)
            wait_until(lambda: sum(servers.each[0].looked_up()))
            load.go_on()
            assert servers.each[1].drain() == 0
            load.go_on()
        assert not load.faults


def test_a_server_that_hangs_is_left(servers: Replicas, files: list[bytes]):
    """Its connections stay, and what it was asked goes elsewhere before the caller's time is up all the same."""
    with Client(servers.run(0, 1), timeout_s=HANGS_S) as client, ThreadPoolExecutor(COUNT) as callers:

        def ask(file: bytes) -> np.ndarray:
            return client.segment_box(file, BOX)[0].mask

        expected = list(callers.map(ask, files))
        with servers.each[0].hung():
            found = list(callers.map(ask, files))
    assert all(map(np.array_equal, found, expected))


# More than a server decodes at once: it has given the first 64 when the one at x = 14 ends it.
MANY = [*[(15.0 + number % 30, 20.0, 70.0, 30.0 + number) for number in range(65)], (14.0, 24.0, 72.0, 72.0)]


def test_a_stream_goes_on_when_its_server_dies(servers: Replicas, files: list[bytes]):
    """Client and gateway have every object once, in order, from two servers of which one has died in the middle."""
    addresses = servers.run(0, 1, 2)
    once = servers.each[0].once
    once.touch()
    with Client(addresses) as client, client.stream(files[0], boxes=MANY, segmenter="probe") as stream:
        whole = [each.box for each in stream]
    assert len(whole) == len(MANY)
    once.unlink()
    with Client(addresses) as client, client.stream(files[0], boxes=MANY, segmenter="probe") as stream:
        assert [each.box for each in stream] == whole
    assert sum(replica.runs for replica in servers.each) == 2
    servers.run(0, 1, 2)
    once.unlink()
    with GatewayThread(GatewaySettings(server_address=addresses)) as gateway:
        boxes = [dict(zip(("xMin", "yMin", "xMax", "yMax"), box, strict=True)) for box in MANY]
        image = {"content": base64.b64encode(files[0]).decode()}
        body = {"box": {"image": image, "boxes": boxes, "segmenter": "probe"}}
        answer = httpx.post(f"{gateway.url}/v1/segment:stream", json=body, timeout=PATIENCE_S)
        events = [json.loads(line)["result"] for line in answer.text.splitlines()]
    found = [event["object"].get("promptIndex", 0) for event in events if "object" in event]
    assert found == list(range(len(MANY)))
    assert events[-1]["summary"]["objectCount"] == len(MANY)
    assert sum(replica.runs for replica in servers.each) == 2


def test_a_stream_that_ends_servers_is_given_up(servers: Replicas, files: list[bytes]):
    """It ends two and no third, and its caller has what came before, once, and is told how much that is."""
    fatal = [*MANY[:-1], (13.0, 24.0, 72.0, 72.0)]
    with Client(servers.run(0, 1, 2)) as client, client.stream(files[0], boxes=fatal, segmenter="probe") as stream:
        found: list[int] = []
        with pytest.raises(CutoutError, match="given up after 2 servers were lost") as lost:
            found.extend(each.prompt_index for each in stream)
    assert found == list(range(len(found)))
    assert not found or f"broke off after {len(found)} of its parts" in str(lost.value)
    wait_until(lambda: sum(replica.runs for replica in servers.each) == 1)


def test_a_session_goes_on_when_its_server_is_gone(servers: Replicas, files: list[bytes]):
    """Its picture is opened at another server, whether the first is killed between prompts or by one, or drains."""
    addresses = servers.run(0, 1, 2)
    servers.each[0].once.unlink(missing_ok=True)

    def holder() -> Replica:
        return next(replica for replica in servers.each if sum(replica.looked_up()))

    with Client(addresses) as client, client.session(files[3], segmenter="probe") as session:
        expected = session.box(BOX)[0].mask
        holder().kill()
        assert np.array_equal(session.box(BOX)[0].mask, expected)
        assert session.box((14, 24, 72, 72))[0].box == (14, 24, 72, 72)
        assert sum(replica.runs for replica in servers.each) == 1
    servers.run(0, 1, 2)
    asyncio.run(goes_on(addresses, files[3], expected, lambda: holder().drain()))


def test_a_live_session_goes_on_when_its_server_is_gone(servers: Replicas):
    """By SIGTERM, then by SIGKILL: every frame is answered once, by the masks that would have been."""
    numbers, (top, left) = range(12), place(0)
    addresses = servers.run(0, 1, 2)

    def follows(replica: Replica) -> bool:
        with grpc.insecure_channel(replica.address) as channel:
            status = Stubs.over(channel).models.GetStatus(model_service_pb2.GetStatusRequest())
        return status.tracking.sessions > 0

    def holders() -> list[Replica]:
        return [replica for replica in servers.each if replica.runs and follows(replica)]

    def follow(ends: Mapping[int, Callable[[Replica], object]]) -> list[np.ndarray]:
        masks = []
        with (
            Client(addresses) as client,
            client.live(map(picture, numbers), boxes=(left, top, left + OBJECT, top + OBJECT)) as live,
        ):
            for found in live:
                assert found.index == len(masks)
                masks.append(found[0].mask)
                if end := ends.get(found.index):
                    (holder,) = holders()
                    end(holder)
        assert live.resumed == len(ends)
        wait_until(lambda: not holders())
        return masks

    undisturbed = follow({})
    masks = follow({1: Replica.drain, 6: Replica.kill})
    # The first replay has the prompt itself, the second one a mask of the tracker's own.
    assert all(iou(mask, other) > 0.9 for mask, other in zip(masks, undisturbed, strict=True))


async def goes_on(addresses: str, file: bytes, expected: np.ndarray, end: Callable[[], object]) -> None:
    """As above, for asyncio."""
    async with AsyncClient(addresses) as client, client.session(file, segmenter="probe") as session:
        assert np.array_equal((await session.box(BOX))[0].mask, expected)
        await asyncio.to_thread(end)
        assert np.array_equal((await session.box(BOX))[0].mask, expected)


def test_a_request_that_ends_servers_is_given_up(servers: Replicas, files: list[bytes]):
    """It ends two of them and no third, and its caller is told what it does; the others go on."""
    addresses = servers.run(0, 1, 2)
    with Client(addresses) as client:
        with pytest.raises(CutoutError, match="given up after 2 servers were lost") as lost:
            client.segment_box(files[0], (13, 24, 72, 72), segmenter="probe")
        assert lost.value.reason == "SERVERS_LOST"
        wait_until(lambda: sum(replica.runs for replica in servers.each) == 1)
        assert client.segment_box(files[0], BOX)
    servers.run(0, 1, 2)
    with (
        GatewayThread(GatewaySettings(server_address=addresses)) as gateway,
        httpx.Client(base_url=gateway.url, timeout=PATIENCE_S) as rest,
    ):
        form = {
            "image.content": files[0],
            "boxes": (None, b'{"xMin":13,"yMin":24,"xMax":72,"yMax":72}'),
            "segmenter": (None, b"probe"),
        }
        answer = rest.post("/v1/segment:box", files=form)
        assert (answer.status_code, answer.json()["details"][0]["reason"]) == (500, "SERVERS_LOST")
        wait_until(lambda: sum(replica.runs for replica in servers.each) == 1)
