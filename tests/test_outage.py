"""After an outage: whoever was connected before is back within seconds, however long it took."""

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
from conftest import run_server
from cutout_client import Client, UnavailableError
from cutout_gateway.settings import GatewaySettings
from gateway_fixtures import GatewayThread
from waiting import PATIENCE_S, wait_until

# By the tenth try gRPC pauses 40 s by default, and we 2 s as ever; a busy machine does not make 20 s of them.
LONG = 10
PAUSE_S = 20


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
