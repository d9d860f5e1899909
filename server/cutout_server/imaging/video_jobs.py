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
from cutout_server.imaging.video import VideoLimits
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

    try:
        with VideoFile(Path(job["video"]), VideoLimits(**job["limits"]), job["field"], decoded) as video:
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
    except FileNotFoundError:
        _say(wire, {"gone": True})
    except InvalidRequestError as error:
        _say(wire, {"reason": error.reason, "violations": [(v.field, v.description) for v in error.violations]})


def _say(wire: BufferedRWPair, what: dict[str, Any]) -> None:
    wire.write(json.dumps(what).encode() + b"\n")
    wire.flush()
