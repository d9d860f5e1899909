"""`python held_worker.py PID`: the process that decodes, which does nothing until $HELD_WORKER_GATE is there."""

import os
import runpy
import sys
from pathlib import Path

from cutout_server.imaging.decode import OpenedFile
from waiting import wait_until

if __name__ == "__main__":
    picture = OpenedFile.picture
    OpenedFile.picture = lambda *given: wait_until(Path(os.environ["HELD_WORKER_GATE"]).exists) and picture(*given)
    sys.modules.pop("cutout_server.imaging.worker", None)
    runpy.run_module("cutout_server.imaging.worker", run_name="__main__")
