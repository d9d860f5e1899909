"""`python gated_server.py GATE [FLAG ...]`: the server, with a model that does nothing until the file GATE is there."""

import json
import runpy
import sys
from pathlib import Path

from probe_family import Probe, probe_family
from waiting import wait_until


class Gate:
    """As much of an event as the probe asks for."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def wait(self, _timeout_s: float) -> bool:
        """Returns when the file is there."""
        return wait_until(self._path.exists)


if __name__ == "__main__":
    program, gate, *flags = sys.argv
    with probe_family(Probe(gate=Gate(Path(gate)))) as model:
        sys.argv = [program, *flags, "--models", json.dumps(model)]
        runpy.run_module("cutout_server", run_name="__main__")
