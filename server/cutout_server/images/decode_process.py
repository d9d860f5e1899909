"""One process that decodes, and what is said with it: it can be killed in the middle of its work."""

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
import structlog
from cutout_common.status import FieldViolation

from cutout_server.errors import CutoutError, InvalidRequestError, NotFoundError, UnavailableError
from cutout_server.imaging.decode import TOO_COSTLY, OpenedFile
from cutout_server.types import Picture, RgbImage

log = structlog.get_logger()

# -P: what lies in the working directory is no module of ours.
COMMAND = (sys.executable, "-P", "-m", "cutout_server.imaging.worker")
_LINE_BYTES = 1 << 16


class Worker:
    """One process, and this end of the socket to it. Begins at once, though it needs a second to be ready."""

    def __init__(self) -> None:
        ours, theirs = socket.socketpair()
        with ours, theirs:
            # By the event loop's thread, whose end would be the end of the process, too. A group of its own hears no
            # interrupt from a terminal, and can finish what the server still waits for.
            self._process: subprocess.Popen[bytes] = subprocess.Popen(  # noqa: S603
                [*COMMAND, str(os.getpid())],
                stdin=theirs.fileno(),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )
            self._wire = ours.makefile("rwb")
        self.is_ready = True
        self.retiring: asyncio.TimerHandle | None = None
        self._is_killed = False

    @property
    def is_alive(self) -> bool:
        """Whether it can be asked."""
        return self._process.poll() is None

    def decode(self, file: OpenedFile, known_key: str, seconds: int) -> Picture:
        """Blocks until it is decoded.

        Raises:
            InvalidRequestError: It cannot be, or not in so many seconds of a processor.
            UnavailableError: The process died.
        """
        job = file.job
        with self.working(Work("picture", job.field, seconds, reason=TOO_COSTLY)):
            limits = {"max_bytes": job.limits.max_bytes, "max_pixels": job.limits.max_pixels}
            asked = {"bytes": len(job.content), "field": job.field, "key": known_key, "seconds": seconds, **limits}
            answer = self.ask(asked, job.content)
            pixels = np.empty((file.header.height, file.header.width, 3), np.uint8)
            self.read(pixels)
            self.is_ready = True
            return Picture.of(pixels, known_key or str(answer["key"]))

    @contextmanager
    def working(self, work: "Work") -> Iterator[None]:
        """Around what is asked of it; whatever goes wrong in the block but a refusal is its end.

        Whoever asks says that it is ready for others, once it has said all: its caller may leave at any moment.

        Raises:
            InvalidRequestError: It refuses, or takes too long.
            UnavailableError: It died.
        """
        try:
            yield
        except (InvalidRequestError, NotFoundError):
            self.is_ready = True
            raise
        except Exception as error:  # It may have said anything.
            raise self._end_of(work) from error

    def ask(self, job: Mapping[str, object], content: bytes = b"") -> dict[str, Any]:
        """Sends a job and reads the first line of the answer.

        Raises:
            InvalidRequestError: It refuses.
            EOFError: It is no more.
        """
        self._wire.write(json.dumps(job).encode() + b"\n")
        self._wire.write(content)
        self._wire.flush()
        return self.line()

    def line(self) -> dict[str, Any]:
        """Reads a line of an answer; raises as `ask` does."""
        line = self._wire.readline(_LINE_BYTES)
        if not line:
            raise EOFError
        answer: dict[str, Any] = json.loads(line)
        if "violations" in answer:
            violations = (FieldViolation(str(where), str(what)) for where, what in answer["violations"])
            raise InvalidRequestError(*violations, reason=str(answer["reason"]))
        return answer

    def read(self, pixels: RgbImage) -> None:
        """Fills pixels; raises EOFError when there are too few."""
        if self._wire.readinto(pixels.data.cast("B")) != pixels.nbytes:
            raise EOFError

    def kill(self) -> None:
        """Ends it, in the midst of its work if it has any."""
        self._is_killed = True
        self._process.kill()

    def close(self) -> int:
        """Waits until a killed one is gone; returns how it ended."""
        with suppress(OSError):  # What was to be written has nobody to read it.
            self._wire.close()
        return self._process.wait()

    def _end_of(self, work: "Work") -> CutoutError:
        """What the process's end means for its work."""
        self._process.kill()  # If it has not ended, it does not do what it should.
        code = self.close()
        if code == -signal.SIGXCPU:
            what = f"expected a {work.of} that is decoded in {work.seconds} s of a processor, this one takes longer"
            return InvalidRequestError.of(work.field, what, reason=work.reason)
        if not self._is_killed:
            log.warning(f"a process died while it decoded a {work.of}", code=code)
        return UnavailableError(
            f"the process that decoded the {work.of} died", retry_after_s=1.0, reason="DECODER_DIED"
        )


@dataclass(frozen=True)
class Work:
    """What a process does.

    Attributes:
        of: What it decodes: a picture or a video.
        field: The field that errors name.
        seconds: Time of a processor that it may take.
        reason: Of the error when it takes longer.
    """

    of: str
    field: str
    seconds: int
    reason: str
