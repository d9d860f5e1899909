"""`python mortal_server.py [FLAG ...]`: the server with the built-in model, and one that a prompt at x = 13 ends."""

import json
import os
import runpy
import sys
from collections.abc import Sequence

from cutout_server.models.queries import Candidates, DecodeQuery
from probe_family import Probe, probe_family


class Mortal(Probe):
    """Ends the process at once, as a fault in a driver does."""

    def decode(self, queries: Sequence[DecodeQuery]) -> list[Candidates]:
        """As the probe does."""
        if any(query.prompt.box is not None and query.prompt.box.x_min == 13 for query in queries):
            os._exit(13)
        return super().decode(queries)


if __name__ == "__main__":
    probe = Mortal()
    probe.gate.set()
    with probe_family(probe) as mortal:
        models = [{"name": "builtin", "family": "builtin"}, mortal]
        sys.argv = [sys.argv[0], *sys.argv[1:], "--models", json.dumps(models)]
        runpy.run_module("cutout_server", run_name="__main__")
