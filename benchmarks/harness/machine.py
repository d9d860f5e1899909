"""What the figures were measured on."""

import datetime
import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

import psutil

HERE = Path(__file__).parent
FLAGS = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16", "amx_int8")
PACKAGES = ("torch", "transformers", "sam2", "segment-anything", "openvino", "onnxruntime", "numpy", "grpcio")


def describe() -> dict[str, Any]:
    """Date, processor with the flags that matter here, memory, versions and commit."""
    cpu = _cpu()
    flags = cpu.get("flags", "").split()
    return {
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "commit": _git("rev-parse", "--short", "HEAD") + ("+" if _git("status", "--porcelain", "-uno") else ""),
        "cpu": cpu.get("model name", platform.processor()),
        "family_model": f"{cpu.get('cpu family', '?')}/{cpu.get('model', '?')}",
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "flags": [flag for flag in FLAGS if flag in flags],
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "load_before": round(os.getloadavg()[0], 1),
        "system": f"{platform.system()} {platform.machine()}, Python {platform.python_version()}",
        "packages": {name: version for name in PACKAGES if (version := _version(name))},
    }


def sentence(machine: dict[str, Any]) -> str:
    """The same in words."""
    packages = ", ".join(f"{name} {version}" for name, version in machine["packages"].items())
    return (
        f"{machine['date']}, commit {machine['commit'] or 'unknown'}; {machine['cores']} cores of {machine['cpu']} "
        f"({', '.join(machine['flags']) or 'no vector flags known'}), {machine['memory_gib']} GiB, "
        f"load {machine['load_before']} before; {machine['system']}; {packages}"
    )


def _cpu() -> dict[str, str]:
    """The first processor of /proc/cpuinfo; empty where there is none."""
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return {}
    pairs = (line.partition(":") for line in text.split("\n\n")[0].splitlines())
    return {key.strip(): value.strip() for key, _, value in pairs}


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _git(*arguments: str) -> str:
    """Empty outside of a checkout."""
    try:
        done = subprocess.run(("git", *arguments), cwd=HERE, capture_output=True, text=True, check=False)  # noqa: S607
    except FileNotFoundError:
        return ""
    return done.stdout.strip()
