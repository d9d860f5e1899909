"""What a decode process answers of videos: what one is, or its frames, each as soon as there is room on the wire.

The wire is the one of `worker`. A job names a file and the limits; with "frames" it wants these, in this order,
and with "later" others may be wanted by a job behind it.
"""

import json
from collections.abc import Callable
from dataclasses import asdict
from io import BufferedRWPair
from pathlib import Path
from typing import Any

from cutout_server.errors import InvalidRequestError
from cutout_server.imaging.process_memory import at_most
from cutout_server.imaging.video import VIDEO_TOO_COSTLY, VideoLimits
from cutout_server.imaging.video_file import VideoFile


def answer(wire: BufferedRWPair, job: dict[str, Any], allow: Callable[[int], None]) -> None:
    """Answers a job.

    Args:
        wire: Where to.
        job: What is wanted.
        allow: Gives this process so many seconds of a processor from now on. Each frame that is decoded for others has
            as many as the first.
    """

    def decoded() -> None:
        if "frames" in job:
            allow(job["seconds"])

    limits = VideoLimits(**job["limits"])
    try:
        with at_most(limits.memory_bytes), VideoFile(Path(job["video"]), limits, job["field"], decoded) as video:
            if "frames" not in job:
                _say(wire, asdict(video.describe()))
                return
            video.check(job["frames"])
            video.check(job["later"])
            _say(wire, {})
            for frame in video.frames(job["frames"], tuple(job["size"])):
                _say(wire, {"number": frame.number, "seconds": frame.seconds})
                wire.write(frame.pixels.data)
                wire.flush()
            _say(wire, {})
    except MemoryError:
        most = limits.memory_bytes >> 20
        what = f"expected a video that can be read in {most:,} MiB of memory, this one takes more"
        _refuse(wire, InvalidRequestError.of(job["field"], what, reason=VIDEO_TOO_COSTLY))
    except FileNotFoundError:
        _say(wire, {"gone": True})
    except InvalidRequestError as error:
        _refuse(wire, error)


def _refuse(wire: BufferedRWPair, error: InvalidRequestError) -> None:
    _say(wire, {"reason": error.reason, "violations": [(v.field, v.description) for v in error.violations]})


def _say(wire: BufferedRWPair, what: dict[str, Any]) -> None:
    wire.write(json.dumps(what).encode() + b"\n")
    wire.flush()
