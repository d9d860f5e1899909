"""Hosts of their own on one machine: namespaces, each on a cable to a bridge. Needs root, iproute2 and /dev/net/tun."""

import contextlib
import fcntl
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import psutil

NETWORK = "10.199.77"
BRIDGE = "cutout-br"
MTU = "9000"
MADE_S = 60.0
DISK = "64m"
TMPDIR = Path(tempfile.gettempdir(), "cutout-disk")  # On every host; short, as Ray's sockets lie below.
LOCK = Path(tempfile.gettempdir(), "cutout-hosts.lock")
IP, MOUNT, UMOUNT, SETPRIV = (shutil.which(name) or name for name in ("ip", "mount", "umount", "setpriv"))
# What begins with these words ends with whoever began it, however that ends.
NOT_ALONE = (SETPRIV, "--pdeathsig", "KILL")
# A host's programs see its name, its disk and each other, and no more of this machine's.
INIT = (
    'hostname "$0" && mount --bind "$1/hosts" /etc/hosts && mount --bind "$1/resolv.conf" /etc/resolv.conf'
    f' && mkdir -p {TMPDIR} && mount --bind "$1/disk" {TMPDIR} && shift && exec "$@"'
)


def ip(*words: str) -> None:
    """Runs `ip`.

    Raises:
        subprocess.CalledProcessError: It failed.
    """
    subprocess.run([IP, *words], check=True, capture_output=True)


def lacking() -> str:
    """Why there can be no hosts here; empty if there can."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    if not shutil.which("ip") or not shutil.which("unshare"):
        return "hosts need iproute2 and util-linux: apt-get install iproute2 util-linux"
    if not os.access("/dev/net/tun", os.R_OK | os.W_OK):
        return "cables need /dev/net/tun"
    made = subprocess.run([IP, "netns", "add", "cutout-tried"], check=False, capture_output=True, text=True)
    subprocess.run([IP, "netns", "del", "cutout-tried"], check=False, capture_output=True)
    return made.stderr.strip()


class Host:
    """A host with an address on the bridge, that runs one program and what this one begins.

    Attributes:
        name: Of the host.
        address: Likewise.
        log: What its program said.
        disk: The folder that its programs have as TMPDIR, which is small.
        program: What it runs, or ran last.
        ahead_s: So far ahead is the clock that programs of Python see there, if they begin from now on.
    """

    def __init__(self, number: int, folder: Path) -> None:
        self.name = f"cutout-{number}"
        self.address = f"{NETWORK}.{number + 10}"
        self.log = folder / f"{self.name}.log"
        self.ahead_s = 0
        self._folder = folder / self.name
        self.disk = self._folder / "disk"
        self.disk.mkdir(parents=True)
        subprocess.run([MOUNT, "-t", "tmpfs", "-o", f"size={DISK}", self.name, str(self.disk)], check=True)
        (self._folder / "hosts").write_text(f"127.0.0.1 localhost\n{self.address} {self.name}\n")
        (self._folder / "resolv.conf").touch()  # It knows no other names, and need not wait for an answer.
        self._quality = folder / f"{self.name}.cable"
        self._quality.write_text("0")
        self.program: subprocess.Popen[bytes] | None = None
        inside, outside = f"cutout-i{number}", f"cutout-o{number}"
        line = [
            *NOT_ALONE,
            sys.executable,
            str(Path(__file__).with_name("line.py")),
            inside,
            outside,
            str(self._quality),
        ]
        self._cable = subprocess.Popen(line)
        try:
            end = time.monotonic() + MADE_S
            while not Path("/sys/class/net", outside).exists() and time.monotonic() < end:
                time.sleep(0.02)
            ip("netns", "add", self.name)
            ip("link", "set", outside, "mtu", MTU, "master", BRIDGE, "up")
            ip("link", "set", inside, "netns", self.name, "name", "eth0", "mtu", MTU)
            ip("-n", self.name, "address", "add", f"{self.address}/24", "dev", "eth0")
            for device in ("eth0", "lo"):
                ip("-n", self.name, "link", "set", device, "up")
            ip("-n", self.name, "route", "add", "default", "via", f"{NETWORK}.1")
        except BaseException:
            self.remove()
            raise

    @property
    def runs(self) -> bool:
        """Whether its program does."""
        return self.program is not None and self.program.poll() is None

    def said(self) -> str:
        """The end of its log."""
        return self.log.read_text()[-2000:]

    def run(self, command: Sequence[str], env: Mapping[str, str] = os.environ) -> None:
        """Starts its program; when that ends, so does all that it began."""
        own = ["unshare", "--uts", "--pid", "--fork", "--mount-proc", "--kill-child", "sh", "-c", INIT]
        enter = [*NOT_ALONE, IP, "netns", "exec", self.name, *own, self.name, str(self._folder)]
        env = {**env, "TMPDIR": str(TMPDIR), "AHEAD_S": str(self.ahead_s)}
        with self.log.open("ab") as sink:
            self.program = subprocess.Popen([*enter, *command], stdout=sink, stderr=sink, env=env)

    def terminate(self) -> None:
        """Asks its program to end, and returns when it has."""
        assert self.program is not None
        for process in psutil.Process(self.program.pid).children():
            process.terminate()
        self.program.wait()

    def began(self) -> list[psutil.Process]:
        """What it has begun, and that."""
        if self.program is None:
            return []
        with contextlib.suppress(psutil.NoSuchProcess):
            return psutil.Process(self.program.pid).children(recursive=True)
        return []

    @contextlib.contextmanager
    def cut_off(self) -> Iterator[None]:
        """Nothing gets to it or out of it meanwhile, and nobody is told."""
        with self._cable_is("inf"):
            yield

    @contextlib.contextmanager
    def slow(self, seconds: float) -> Iterator[None]:
        """It is so far away meanwhile, each way."""
        with self._cable_is(str(seconds)):
            yield

    @contextlib.contextmanager
    def hung(self) -> Iterator[None]:
        """Nothing runs there meanwhile, as when its hypervisor stops it; its connections stay."""
        stopped = self.began()
        for process in stopped:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.suspend()
        try:
            yield
        finally:
            for process in stopped:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.resume()

    @contextlib.contextmanager
    def full(self) -> Iterator[None]:
        """Nothing more can be written to its disk meanwhile."""
        ballast = self.disk / "ballast"
        with ballast.open("wb", buffering=0) as file, contextlib.suppress(OSError):
            while file.write(bytes(2**16)):
                pass
        try:
            yield
        finally:
            ballast.unlink()

    @contextlib.contextmanager
    def _cable_is(self, quality: str) -> Iterator[None]:
        self._quality.write_text(quality)
        try:
            yield
        finally:
            self._quality.write_text("0")

    def remove(self) -> None:
        """Takes it away."""
        kill(self)
        self._cable.kill()
        self._cable.wait()
        subprocess.run([IP, "netns", "del", self.name], check=False, capture_output=True)
        subprocess.run([UMOUNT, "--lazy", str(self.disk)], check=False, capture_output=True)


def kill(*lost: Host) -> None:
    """Ends all that runs on hosts without a word, at once, as a loss of power does."""
    programs = [host.program for host in lost if host.program is not None]
    began = [process for host in lost for process in host.began()]
    for program in programs:
        program.kill()
    for program in programs:
        program.wait()
    psutil.wait_procs(began, timeout=MADE_S)


@contextlib.contextmanager
def hosts(count: int) -> Iterator[list[Host]]:
    """So many, reachable from this one.

    Raises:
        SystemExit: There can be none here.
    """
    if why := lacking():
        raise SystemExit(why)
    made: list[Host] = []
    with LOCK.open("w") as lock, tempfile.TemporaryDirectory(prefix="cutout-hosts-") as folder:
        fcntl.flock(lock, fcntl.LOCK_EX)  # One network has these names and addresses at a time.
        _tidy()
        ip("link", "add", BRIDGE, "mtu", MTU, "type", "bridge")
        try:
            ip("address", "add", f"{NETWORK}.1/24", "dev", BRIDGE)
            ip("link", "set", BRIDGE, "up")
            made += (Host(number, Path(folder)) for number in range(count))
            yield made
        finally:
            for host in made:
                host.remove()
            ip("link", "del", BRIDGE)


def _tidy() -> None:
    """Takes away what is left of hosts whose program was killed."""
    for name in subprocess.run([IP, "netns"], check=True, capture_output=True, text=True).stdout.split():
        if re.fullmatch(r"cutout-\d+", name):
            ip("netns", "del", name)
    for mount in Path("/proc/mounts").read_text().splitlines():
        if mount.startswith("cutout-"):
            subprocess.run([UMOUNT, "--lazy", mount.split()[1]], check=True)
    if Path("/sys/class/net", BRIDGE).exists():
        ip("link", "del", BRIDGE)
