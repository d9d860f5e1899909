"""`python mortal_server.py [FLAG ...]`: the server with the built-in model, and one that prompts end.

A prompt at x = 13 ends whichever server has it; one at x = 14 the first alone that makes the file $MORTAL_ONCE.
"""

import json
import os
import runpy
import sys
from collections.abc import Sequence
from pathlib import Path

from cutout_server.models.queries import Candidates, DecodeQuery
from probe_family import Probe, probe_family


class Mortal(Probe):
    """Ends the process at once, as a fault in a driver does."""

    def decode(self, queries: Sequence[DecodeQuery]) -> list[Candidates]:
        """As the probe does."""
        starts = {query.prompt.box.x_min for query in queries if query.prompt.box is not None}
        if 13 in starts or (14 in starts and _is_first()):
            os._exit(13)
        return super().decode(queries)


def _is_first() -> bool:
    try:
        Path(os.environ["MORTAL_ONCE"]).touch(exist_ok=False)
    except FileExistsError:
        return False
    return True


if __name__ == "__main__":
    probe = Mortal()
    probe.gate.set()
    with probe_family(probe) as mortal:
        models = [{"name": "builtin", "family": "builtin"}, mortal]
        sys.argv = [sys.argv[0], *sys.argv[1:], "--models", json.dumps(models)]
        runpy.run_module("cutout_server", run_name="__main__")
