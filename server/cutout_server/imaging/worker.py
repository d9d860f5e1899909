"""`python -m cutout_server.imaging.worker PID`: decodes for the server of that number, which may kill it.

Its end of a socket is its standard input. What goes through, both ways, is a line of JSON and then as many bytes as are
known by then; nothing that comes back can make the server do anything but take pixels.
"""

import ctypes
import json
import math
import os
import resource
import signal
import socket
import sys
import time
from contextlib import suppress
from io import BufferedRWPair

from cutout_server.errors import InvalidRequestError
from cutout_server.imaging import video_jobs
from cutout_server.imaging.decode import ImageLimits, open_file

_PR_SET_PDEATHSIG = 1
# What takes long leaves the processors to what does not: a third of the weight of a thread of the server.
_NICE = 5


def main(server: int) -> None:
    """Answers until the server is gone."""
    _die_with(server)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    os.nice(_NICE)
    with socket.socket(fileno=0) as end, end.makefile("rwb") as wire:
        while line := wire.readline():
            job = json.loads(line)
            _allow(job["seconds"])
            if "video" in job:
                video_jobs.answer(wire, job, _allow)
            else:
                _answer(wire, job, wire.read(job["bytes"]))
            wire.flush()


def _answer(wire: BufferedRWPair, job: dict[str, int | str], content: bytes) -> None:
    limits = ImageLimits(int(job["max_bytes"]), int(job["max_pixels"]))
    try:
        picture = open_file(content, limits, field=str(job["field"])).picture(str(job["key"]))
    except InvalidRequestError as error:
        violations = [(each.field, each.description) for each in error.violations]
        wire.write(json.dumps({"reason": error.reason, "violations": violations}).encode() + b"\n")
    else:
        wire.write(json.dumps({"key": picture.key}).encode() + b"\n")
        wire.write(picture.pixels.data)


def _allow(seconds: int) -> None:
    """From now on this process may compute for so long; then the kernel ends it, whatever it is doing."""
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    most = math.ceil(time.process_time()) + seconds
    resource.setrlimit(resource.RLIMIT_CPU, (most if hard == resource.RLIM_INFINITY else min(most, hard), hard))


def _die_with(server: int) -> None:
    """Linux kills this process together with the server; elsewhere it ends with its picture, or its time."""
    if sys.platform == "linux":
        with suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != server:
        sys.exit()


if __name__ == "__main__":
    main(int(sys.argv[1]))
