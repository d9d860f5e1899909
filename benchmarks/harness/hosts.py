"""Hosts of their own on one machine: network namespaces on a bridge. Needs root and iproute2."""

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

NETWORK = "10.199.77"
BRIDGE = "cutout-br"
IP = shutil.which("ip") or "ip"


def ip(*words: str) -> None:
    """Runs `ip`.

    Raises:
        subprocess.CalledProcessError: It failed.
    """
    subprocess.run([IP, *words], check=True, capture_output=True)


class Host:
    """A namespace with an address on the bridge.

    Attributes:
        name: Of the namespace.
        address: Of the host.
    """

    def __init__(self, number: int) -> None:
        self.name = f"cutout-{number}"
        self.address = f"{NETWORK}.{number + 10}"
        self._link = f"cutout-v{number}"
        ip("netns", "add", self.name)
        ip("link", "add", self._link, "type", "veth", "peer", "name", "eth0", "netns", self.name)
        ip("link", "set", self._link, "master", BRIDGE, "up")
        ip("-n", self.name, "address", "add", f"{self.address}/24", "dev", "eth0")
        ip("-n", self.name, "link", "set", "eth0", "up")
        ip("-n", self.name, "link", "set", "lo", "up")

    def run(self, command: list[str], log: str) -> subprocess.Popen[bytes]:
        """Starts a program there; its words go to a file."""
        with Path(log).open("ab") as sink:
            return subprocess.Popen([IP, "netns", "exec", self.name, *command], stdout=sink, stderr=sink)

    @contextlib.contextmanager
    def cut_off(self) -> Iterator[None]:
        """Nothing that it sends gets out of it meanwhile, and nobody is told."""
        ip("-n", self.name, "route", "add", "blackhole", f"{NETWORK}.1/32")
        try:
            yield
        finally:
            ip("-n", self.name, "route", "del", "blackhole", f"{NETWORK}.1/32")

    def remove(self) -> None:
        """Takes it away."""
        subprocess.run([IP, "netns", "del", self.name], check=False, capture_output=True)


@contextlib.contextmanager
def hosts(count: int) -> Iterator[list[Host]]:
    """So many, reachable from this one.

    Raises:
        SystemExit: This is not root's.
    """
    if os.geteuid() != 0:
        raise SystemExit("network namespaces need root")
    ip("link", "add", BRIDGE, "type", "bridge")
    made: list[Host] = []
    try:
        ip("address", "add", f"{NETWORK}.1/24", "dev", BRIDGE)
        ip("link", "set", BRIDGE, "up")
        made += map(Host, range(count))
        yield made
    finally:
        for host in made:
            host.remove()
        ip("link", "del", BRIDGE)
