"""How many calls a client has under way, and on which event loops."""

import asyncio
import runpy
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import client_fixtures
import cutout_client
import numpy as np
import pytest
from client_fixtures import ScriptedServer
from conftest import RunningServer, run_server
from cutout_client import AsyncClient, Client
from cutout_client.connection import Connection
from cutout_client.images import PixelPicture
from cutout_client.loops import Lines
from cutout_client.transport import Call
from probe_family import Probe, probe_family
from waiting import PATIENCE_S, wait_until

PIXELS = np.zeros((24, 32, 3), np.uint8)
PIXELS[6:18, 8:24] = (220, 180, 40)
BOX = (7, 5, 25, 19)
SEATS = 2
EXAMPLE = Path(__file__).parent.parent / "examples" / "asynchronous.py"


@pytest.fixture(scope="module")
def small() -> Iterator[RunningServer]:
    """A server that turns away whoever finds more than two requests before them."""
    with run_server(max_requests_per_device=SEATS) as server:
        yield server


@pytest.fixture
def scripted() -> Iterator[ScriptedServer]:
    with client_fixtures.scripted_server() as running:
        yield running


@dataclass
class Watch:
    """Counts the calls that are in a server at once, and holds them there until the gate opens."""

    now: int = 0
    most: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)
    gate: threading.Event = field(default_factory=threading.Event)

    def over(self, arrive: Callable[..., None]) -> Callable[..., None]:
        """The server's own `arrive`, watched."""

        def watched(*args: Any) -> None:
            with self.lock:
                self.now += 1
                self.most = max(self.most, self.now)
            assert self.gate.wait(PATIENCE_S)
            arrive(*args)
            with self.lock:
                self.now -= 1

        return watched

    def open_when(self, count: int) -> None:
        """Opens the gate once so many calls are there, and those that come with them have had time to."""
        wait_until(lambda: self.now >= count)
        time.sleep(0.2)
        self.gate.set()


@pytest.fixture
def watch(scripted: ScriptedServer) -> Watch:
    watch = Watch()
    scripted.arrive = watch.over(scripted.arrive)
    return watch


@pytest.mark.slow
async def test_two_hundred_at_once_are_all_answered(small: RunningServer) -> None:
    """`asyncio.gather` of 200 requests, with the defaults, on a server with two seats."""
    async with AsyncClient(small.address) as client:
        results = await asyncio.gather(*(client.segment_box(PIXELS, BOX) for _ in range(200)))
    assert [len(result) for result in results] == [1] * 200


@pytest.mark.slow
def test_threads_are_all_answered(small: RunningServer) -> None:
    """So do threads that share a client, or have one each."""
    with Client(small.address) as shared, Client(small.address) as other, ThreadPoolExecutor(24) as pool:
        clients = [shared, other] * 24
        results = list(pool.map(lambda client: client.segment_box(PIXELS, BOX), clients))
    assert [len(result) for result in results] == [1] * 48


@pytest.mark.slow
def test_the_example_on_many_pictures(small: RunningServer, tmp_path: Path, monkeypatch, capsys) -> None:
    """examples/asynchronous.py has an answer for each of 90 pictures."""
    made = AsyncClient
    monkeypatch.setattr(cutout_client, "AsyncClient", lambda _: made(small.address))
    paths = [str(tmp_path / f"{number}.png") for number in range(90)]
    for path in paths:
        Path(path).write_bytes(PixelPicture(PIXELS).file())
    monkeypatch.setattr(sys, "argv", [str(EXAMPLE), *paths])
    runpy.run_path(str(EXAMPLE))
    lines = capsys.readouterr().out.splitlines()
    assert sorted(line.split(": ")[0] for line in lines) == sorted(paths)
    assert all(" objects in " in line for line in lines), lines


def test_no_more_than_wanted_are_in_flight(scripted: ScriptedServer, watch: Watch) -> None:
    """Of twelve threads' calls, three are with the server."""
    with Client(scripted.address, max_in_flight=3) as client, ThreadPoolExecutor(12) as pool:
        answers = [pool.submit(client.segment_box, PIXELS, BOX) for _ in range(12)]
        watch.open_when(3)
        for answer in answers:
            answer.result()
    assert (watch.most, len(scripted.calls)) == (3, 12)


async def test_no_more_tasks_than_wanted_are_in_flight(scripted: ScriptedServer, watch: Watch) -> None:
    """Of twelve tasks' calls, three are with the server."""
    async with AsyncClient(scripted.address, max_in_flight=3) as client:
        opening = asyncio.to_thread(watch.open_when, 3)
        await asyncio.gather(opening, *(client.segment_box(PIXELS, BOX) for _ in range(12)))
    assert (watch.most, len(scripted.calls)) == (3, 12)


def test_a_calls_own_timeout_holds_for_waiting(scripted: ScriptedServer, watch: Watch) -> None:
    """A call whose turn does not come in time says so, and was never sent."""
    with Client(scripted.address, max_in_flight=1) as client, ThreadPoolExecutor(1) as pool:
        first = pool.submit(client.segment_box, PIXELS, BOX)
        wait_until(lambda: watch.now == 1)
        with pytest.raises(cutout_client.DeadlineError, match="max_in_flight=1"):
            client.segment_box(PIXELS, BOX, timeout_s=0.2)
        watch.gate.set()
        first.result()
    assert len(scripted.calls) == 1


async def test_a_tasks_own_timeout_holds_for_waiting(scripted: ScriptedServer, watch: Watch) -> None:
    """As a thread's."""
    async with AsyncClient(scripted.address, max_in_flight=1) as client:
        first = asyncio.create_task(client.segment_box(PIXELS, BOX))
        await asyncio.to_thread(wait_until, lambda: watch.now == 1)
        with pytest.raises(cutout_client.DeadlineError, match="max_in_flight=1"):
            await client.segment_box(PIXELS, BOX, timeout_s=0.2)
        watch.gate.set()
        await first
    assert len(scripted.calls) == 1


async def test_a_cancelled_call_gives_its_turn_back(scripted: ScriptedServer, watch: Watch) -> None:
    """One that is under way, and one that waits."""
    async with AsyncClient(scripted.address, max_in_flight=1) as client:
        tasks = [asyncio.create_task(client.segment_box(PIXELS, BOX)) for _ in range(3)]
        await asyncio.to_thread(wait_until, lambda: watch.now == 1)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert [task.cancelled() for task in tasks] == [True] * 3
        watch.gate.set()
        await client.segment_box(PIXELS, BOX, timeout_s=PATIENCE_S)


def test_the_clients_timeout_counts_from_a_calls_turn(monkeypatch) -> None:
    """Waiting among a client's own calls is on the clock only when the call was given a timeout of its own."""
    now = 100.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    connection = Connection(timeout_s=60)
    by_default, own = Call.of(connection, None, ""), Call.of(connection, 60, "")
    assert (by_default.patience_s(), own.patience_s()) == (None, 60)
    now += 50
    by_default.begin()
    own.begin()
    assert (by_default.remaining_s(), own.remaining_s()) == (60, 10)


@pytest.mark.parametrize("form", ["rle", "png"])
def test_a_stream_lets_others_go_on(small: RunningServer, form: str) -> None:
    """A stream is under way until its first part is there: whoever reads it may ask for something else meanwhile."""
    with Client(small.address, max_in_flight=1) as client:
        stream = client.stream(PIXELS, boxes=[BOX, BOX], mask_formats=[form])
        found = [len(client.segment_box(PIXELS, each.box, mask_formats=[form])) for each in stream]
    assert found == [1, 1]


async def test_an_asynchronous_stream_lets_others_go_on(small: RunningServer) -> None:
    """As the synchronous one."""
    async with AsyncClient(small.address, max_in_flight=1) as client:
        stream = client.stream(PIXELS, boxes=[BOX, BOX])
        found = [len(await client.segment_box(PIXELS, each.box)) async for each in stream]
    assert found == [1, 1]


def test_one_client_on_several_loops(small: RunningServer) -> None:
    """It may be made where there is no loop, serve one after the other, and several at once."""
    client = AsyncClient(small.address)

    async def work() -> int:
        with_stream = client.stream(PIXELS, boxes=BOX).result()
        results = await asyncio.gather(
            with_stream, *(client.segment_box(PIXELS, BOX) for _ in range(Connection.max_in_flight + 2))
        )
        async with client.session(PIXELS) as session:
            return len(await session.box(BOX)) + sum(map(len, results))

    assert asyncio.run(work()) == asyncio.run(work()) == Connection.max_in_flight + 4
    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(lambda _: asyncio.run(work()), range(2))) == [Connection.max_in_flight + 4] * 2
    asyncio.run(client.close())
    with pytest.raises(ValueError, match="closed"):
        asyncio.run(work())


@pytest.mark.parametrize("kind", ["client", "asyncio"])
def test_a_session_opens_once_there_is_room(monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    """A full server says when to come back, and who opens a session does, like every other caller."""
    probe, full, pause_s = Probe(), [], Call.pause_s
    monkeypatch.setattr(Call, "pause_s", lambda call, error: full.append(error.reason) or pause_s(call, error))

    def found(address: str) -> int:
        with Client(address) as client, client.session(PIXELS) as session:
            return len(session.box(BOX))

    async def found_async(address: str) -> int:
        async with AsyncClient(address) as client, client.session(PIXELS) as session:
            return len(await session.box(BOX))

    with (
        probe_family(probe) as model,
        run_server(models=[model], max_requests_per_device=1) as server,
        Client(server.address) as client,
        ThreadPoolExecutor(2) as pool,
    ):
        first = pool.submit(client.segment_box, PIXELS, BOX)
        wait_until(lambda: probe.count("encode"))
        ask = found if kind == "client" else lambda address: asyncio.run(found_async(address))
        second = pool.submit(ask, server.address)
        wait_until(lambda: full or second.done())
        probe.gate.set()
        assert len(first.result()) == second.result() == 1
    assert set(full) == {"QUEUE_FULL"}


def test_without_a_loop() -> None:
    """Where none runs, the client says what it needs."""
    with pytest.raises(RuntimeError, match="inside of a running event loop"):
        Lines(lambda: None, 1).here()


def test_max_in_flight_must_be_usable() -> None:
    """None at once would be no client."""
    with pytest.raises(ValueError, match="max_in_flight must be at least 1, not 0"):
        AsyncClient("localhost:1", max_in_flight=0)
