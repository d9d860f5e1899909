"""A large picture costs the memory of its pixels and little more, from the upload to the masks."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from cutout_client import Client
from PIL import Image
from waiting import PATIENCE_S, wait_until

from tools import free_port

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="peaks are read from Linux's /proc"),
]
MIB = 1024 * 1024
SIDE = 8000  # 64 megapixels, 183 MiB of RGB.
PIXELS = SIDE * SIDE * 3
# One tile or model input, masks within their boxes, the file, buffers of the transport.
CONSTANT = 64 * MIB


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The same large picture in two formats."""
    folder = tmp_path_factory.mktemp("large")
    coarse = np.random.default_rng(3).integers(0, 256, (SIDE // 200, SIDE // 200, 3), np.uint8)
    picture = Image.fromarray(coarse).resize((SIDE, SIDE), Image.Resampling.NEAREST)
    paths = {name: folder / f"large.{name}" for name in ("jpg", "png")}
    picture.save(paths["jpg"], quality=80)
    picture.save(paths["png"], compress_level=1)
    return paths


class Served:
    """A server in a process of its own, and a client of it."""

    def __init__(self, pid: int, client: Client) -> None:
        self.client = client
        self._folder = Path(f"/proc/{pid}")

    def rss(self, field: str) -> int:
        """Bytes of a line of its status."""
        lines = (self._folder / "status").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{field}:"))

    def forget_peak(self) -> int:
        """Begins a new peak; gives what is held now."""
        (self._folder / "clear_refs").write_text("5")
        return self.rss("VmRSS")


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    port = free_port()
    # Kept embeddings have a bound of their own.
    flags = ["--port", str(port), "--metrics-port", "-1", "--embeddings-cache-bytes", "0"]
    process = subprocess.Popen(
        [sys.executable, "-m", "cutout_server", *flags],
        stderr=subprocess.DEVNULL,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    try:
        with Client(f"127.0.0.1:{port}") as client:
            wait_until(lambda: answers(client))
            warm = np.random.default_rng(1).integers(0, 256, (600, 600, 3), np.uint8)
            client.segment_box(warm, [(100, 100, 300, 300)])
            client.segment_box(warm, [(100, 100, 300, 300)], tiling=512)
            yield Served(process.pid, client)
    finally:
        process.terminate()
        process.wait(PATIENCE_S)


def answers(client: Client) -> bool:
    try:
        return bool(client.models())
    except Exception:  # noqa: BLE001 - it starts
        return False


@pytest.mark.parametrize("name", ["jpg", "png"])
def test_memory_is_the_pictures(served: Served, files: dict[str, Path], name: str) -> None:
    """Decoding holds the pixels once; boxes and tiles add what is constant, and nothing is kept."""
    image = served.client.upload(files[name])
    for options in ({}, {"tiling": 1200}):
        before = served.forget_peak()
        (found,) = served.client.segment_box(image, [(2000, 2000, 2300, 2300)], **options)
        assert found.mask.shape == (SIDE, SIDE)
        assert served.rss("VmHWM") - before < PIXELS + CONSTANT
    wait_until(lambda: served.rss("VmRSS") - before < CONSTANT)
