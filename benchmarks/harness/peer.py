"""perceptra-seg 0.2.1, a server of the same kind, in a virtual environment of its own, started as it documents."""

import json
import socket
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

from harness.servers import Running, started
from harness.subjects import CACHE, Subject

FOLDER = CACHE.parent / "peer-venv"
# What it imports and this environment lacks; torch and the rest come from here, so that both run the same.
PACKAGES = ("perceptra-seg==0.2.1", "fastapi==0.118.*", "starlette==0.48.*", "shapely>=2", "requests>=2.31")


class MissingError(Exception):
    """The peer cannot be installed; the text says why."""


def install() -> Path:
    """Its Python, installed at the first call.

    Raises:
        MissingError: The package index cannot be reached, or does not have it.
    """
    python = FOLDER / "bin" / "python"
    if not (FOLDER / ".complete").exists():
        subprocess.run((sys.executable, "-m", "venv", "--clear", FOLDER), check=True)
        own = Path(sysconfig.get_path("purelib", vars={"base": str(FOLDER)}))
        (own / "host.pth").write_text(sysconfig.get_path("purelib") + "\n")
        command = (python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps", *PACKAGES)
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
        if done.returncode:
            raise MissingError(f"{PACKAGES[0]} cannot be installed: {done.stderr.strip().splitlines()[-1]}")
        (FOLDER / ".complete").touch()
    return python


@contextmanager
def serving(subject: Subject) -> Iterator[Running]:
    """Its server with a SAM in fp32 on the CPU; it reads no YAML, so JSON, which is YAML, will do.

    Raises:
        MissingError: It cannot be installed.
        RuntimeError: It did not come up; the text is its log.
    """
    python = install()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    config = {
        "model": {"name": "sam_v1", "encoder_variant": subject.config, "checkpoint_path": str(subject.checkpoint)},
        "runtime": {"backend": "torch", "device": "cpu", "precision": "fp32"},
        # By default it drops what is small, and so answers small objects with nothing.
        "postprocess": {"remove_small_components": False},
        "server": {"host": "127.0.0.1", "port": port},
    }
    url = f"http://127.0.0.1:{port}"
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "config.yaml"
        file.write_text(json.dumps(config))
        command = [
            str(python),
            "-W",
            "ignore",
            "-c",
            "from perceptra_seg.cli import main; main()",
            "serve",
            "--config",
            str(file),
        ]
        began = time.perf_counter()
        with started(command, lambda _: _healthy(url)) as (_, pid):
            yield Running(url, pid, time.perf_counter() - began, f"{url}/metrics/")


def _healthy(url: str) -> bool | None:
    try:
        return httpx.get(f"{url}/v1/healthz", timeout=5, trust_env=False).status_code == 200 or None
    except httpx.TransportError:
        return None
