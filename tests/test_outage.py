"""After an outage: whoever was connected before is back within seconds, however long it took."""

import asyncio
import contextlib
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise

import httpx
import pytest
from conftest import RunningServer, run_server
from cutout_client import AsyncClient, Client, UnavailableError
from cutout_common import channels
from cutout_gateway.settings import GatewaySettings
from gateway_fixtures import GatewayThread
from waiting import PATIENCE_S, wait_until

# By the tenth try gRPC pauses 40 s by default, and we 2 s as ever; a busy machine does not make 20 s of them.
LONG = 10
PAUSE_S = 20
# Two queries a time, for either kind of address. By default the fifteenth time comes after ten minutes.
MANY = 30


class Outage:
    """A port behind which nobody serves: every connection is closed at once."""

    def __init__(self, port: int) -> None:
        self._attempts: list[float] = []
        self._listener = socket.create_server(("127.0.0.1", port))
        self.port: int = self._listener.getsockname()[1]
        self._thread = threading.Thread(target=self._refuse)
        self._thread.start()

    def is_long(self) -> bool:
        """Whether many tries were made by now."""
        return len(self._attempts) >= LONG

    def longest_pause_s(self) -> float:
        """Between two tries."""
        return max(later - sooner for sooner, later in pairwise(self._attempts))

    def end(self) -> None:
        """Gives the port back; once more does nothing."""
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._listener.close()

    def _refuse(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                self._listener.accept()[0].close()
                self._attempts.append(time.monotonic())


@contextmanager
def client(address: str) -> Iterator[Callable[[], bool]]:
    """The Python client; asks whether the server serves."""
    with Client(address, retries=0) as asking:

        def ask() -> bool:
            with contextlib.suppress(UnavailableError):
                return asking.health() == "serving"
            return False

        yield ask


@contextmanager
def gateway(address: str) -> Iterator[Callable[[], bool]]:
    """The gateway, likewise."""
    with GatewayThread(GatewaySettings(server_address=address)) as running:
        yield lambda: httpx.get(f"{running.url}/readyz", timeout=PATIENCE_S).status_code == 200


@contextmanager
def asyncio_client(address: str) -> Iterator[Callable[[], bool]]:
    """The client for asyncio, likewise."""
    with asyncio.Runner() as loop:

        async def make() -> AsyncClient:
            return AsyncClient(address, retries=0)

        asking = loop.run(make())

        def ask() -> bool:
            with contextlib.suppress(UnavailableError):
                return loop.run(asking.health()) == "serving"
            return False

        yield ask
        loop.run(asking.close())


class NameServer:
    """DNS that knows no name until it is told to."""

    def __init__(self) -> None:
        self.queries = 0
        self.knows = False
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._socket.getsockname()[1]}"
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def stop(self) -> None:
        """Ends it."""
        self._socket.sendto(b"", self._socket.getsockname())
        self._thread.join()
        self._socket.close()

    def _serve(self) -> None:
        while query := self._socket.recvfrom(512):
            packet, asker = query
            if not packet:
                return
            self.queries += 1
            self._socket.sendto(self._answer(packet), asker)

    def _answer(self, query: bytes) -> bytes:
        """RFC 1035, section 4: the question again, behind it the address, if one is asked for (type 1)."""
        end = query.index(b"\0", 12) + 5
        found = self.knows and query[end - 4 : end - 2] == b"\0\1"
        code = 0 if self.knows else 3  # no such name
        record = b"\xc0\x0c\0\1\0\1\0\0\0\0\0\4" + socket.inet_aton("127.0.0.1") if found else b""
        return query[:2] + bytes([0x81, 0x80 | code, 0, 1, 0, found, 0, 0, 0, 0]) + query[12:end] + record


@pytest.mark.parametrize("caller", [client, asyncio_client, gateway])
def test_names_are_asked_for_again_and_again(
    caller: Callable[..., contextlib.AbstractContextManager], server: RunningServer, monkeypatch: pytest.MonkeyPatch
):
    """A name that comes late, as of a container, is found soon: gRPC alone would pause longer and longer."""
    monkeypatch.setattr(channels, "RENEW_S", 0.2)
    names = NameServer()
    try:
        with caller(f"dns://{names.address}/late.test:{server.app.port}") as ask:
            wait_until(lambda: not ask() and names.queries > MANY)
            names.knows = True
            wait_until(ask)
    finally:
        names.stop()


@pytest.mark.slow
@pytest.mark.parametrize("caller", [client, gateway])
def test_old_connections_are_back_within_seconds(caller: Callable[..., contextlib.AbstractContextManager]):
    """The pauses between two tries stay short, so that the next one finds the server soon."""
    with run_server() as server:
        address, port = server.address, server.app.port
        asking = contextlib.ExitStack()
        ask = asking.enter_context(caller(address))
        assert ask()
    with asking:
        outage = Outage(port)
        try:
            wait_until(lambda: not ask() and outage.is_long())
        finally:
            outage.end()
        assert outage.longest_pause_s() < PAUSE_S
        with run_server(port=port):
            wait_until(ask)


@pytest.mark.slow
def test_health_waits_for_a_server_that_comes_late():
    """`cutout health --wait` sees the server within seconds after its start, however long it has waited."""
    outage = Outage(0)
    port = outage.port
    command = [sys.executable, "-m", "cutout_client", "health", "--server", f"127.0.0.1:{port}", "--wait", "300"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as waiting:
        try:
            wait_until(outage.is_long)
            outage.end()
            assert outage.longest_pause_s() < PAUSE_S
            with run_server(port=port):
                assert waiting.communicate(timeout=PATIENCE_S)[0] == "serving\n"
            assert waiting.returncode == 0
        finally:
            waiting.kill()
            outage.end()
