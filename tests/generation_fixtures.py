"""A server that makes pictures."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import RunningServer, run_server
from stable_diffusion_checkpoints import sd1

__all__ = ["painter", "sd1"]


@pytest.fixture(scope="session")
def painter(sd1: Path) -> Iterator[RunningServer]:
    """A server with a small Stable Diffusion and the built-in model."""
    models = [
        {"name": "sd", "family": "stable-diffusion", "checkpoint": str(sd1)},
        {"name": "builtin", "family": "builtin"},
    ]
    with run_server(models=models) as server:
        yield server
