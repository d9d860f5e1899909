"""`python held_worker.py PID`: the process that decodes, which does nothing until $HELD_WORKER_GATE is there."""

import os
import runpy
import sys
from pathlib import Path

from cutout_server.imaging.decode import OpenedFile
from cutout_server.imaging.video_file import VideoFile
from waiting import wait_until


def held_up(work: object) -> object:
    return lambda *given: wait_until(Path(os.environ["HELD_WORKER_GATE"]).exists) and work(*given)


if __name__ == "__main__":
    OpenedFile.picture, VideoFile.frames = held_up(OpenedFile.picture), held_up(VideoFile.frames)
    sys.modules.pop("cutout_server.imaging.worker", None)
    runpy.run_module("cutout_server.imaging.worker", run_name="__main__")
