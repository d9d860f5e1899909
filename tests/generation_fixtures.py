"""A server that makes pictures."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from clip_checkpoints import clip_folder
from conftest import RunningServer, run_server
from stable_diffusion_checkpoints import sd1

__all__ = ["clip_folder", "painter", "sd1"]


@pytest.fixture(scope="session")
def painter(sd1: Path, clip_folder: Path) -> Iterator[RunningServer]:
    """A server with a small Stable Diffusion, a small CLIP and the built-in model."""
    models = [
        {"name": "sd", "family": "stable-diffusion", "checkpoint": str(sd1)},
        {"name": "clip", "family": "clip", "checkpoint": str(clip_folder)},
        {"name": "builtin", "family": "builtin"},
    ]
    with run_server(models=models) as server:
        yield server
