"""What one caller uses of the server, held against its quotas before anything is paid for."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from cutout_common.pace import Pace

from cutout_server.callers.bucket import Bucket
from cutout_server.callers.quotas import Quotas
from cutout_server.errors import QuotaError


class Account:
    """Belongs to the event loop.

    Args:
        party: Whose it is: a caller with a key, or an address that callers without one come from.
        caller: Name of the caller, which addresses without a key share.
        quotas: What it may use.
        clock: Seconds.

    Attributes:
        requests_in_hand: How many devices have admitted.
        sessions: How many are open.
        uploads: How many still arrive.
        arriving_bytes: What has arrived of them.
        stored_bytes: Files of uploaded pictures.
        stored_images: Their number.
    """

    def __init__(self, party: str, caller: str, quotas: Quotas, clock: Callable[[], float] = time.monotonic) -> None:
        self.party = party
        self.caller = caller
        self.quotas = quotas
        self.requests_in_hand = 0
        self.sessions = 0
        self.uploads = 0
        self.arriving_bytes = 0
        self.stored_bytes = 0
        self.stored_images = 0
        self._clock = clock
        self._requests = Bucket(quotas.requests_per_s, clock)
        self._pixels = Bucket(quotas.pixels_per_s, clock)
        self._session_pace = Pace(1.0, clock=clock)
        self._upload_pace = Pace(1.0, clock=clock)

    @property
    def is_idle(self) -> bool:
        """Whether it is like one that was never used."""
        held = self.requests_in_hand or self.sessions or self.uploads or self.stored_images
        return not held and self._requests.is_full and self._pixels.is_full

    def allow(self, quotas: Quotas) -> None:
        """Holds it against other quotas from now on."""
        if quotas != self.quotas:
            self.quotas = quotas
            self._requests.change(quotas.requests_per_s)
            self._pixels.change(quotas.pixels_per_s)

    def request(self) -> None:
        """Counts a request, or a session's prompt.

        Raises:
            QuotaError: There were too many of late.
        """
        if delay_s := self._requests.take(1):
            raise QuotaError("requests_per_s", self.quotas.requests_per_s, retry_after_s=delay_s)

    def only_asked(self) -> None:
        """Takes a request back that was none: its caller only asked whether it would be let in."""
        self._requests.put_back(1)

    def read(self, pixels: int) -> None:
        """Counts the pixels of a picture that is going to be read or made.

        Raises:
            QuotaError: There were too many of late.
        """
        if delay_s := self._pixels.take(pixels):
            raise QuotaError("pixels_per_s", self.quotas.pixels_per_s, retry_after_s=delay_s)

    @contextmanager
    def session(self) -> Iterator[None]:
        """Counts a session for as long as the block lasts.

        Raises:
            QuotaError: As many are open as may be.
        """
        if self.sessions >= self.quotas.sessions:
            delay_s = self._session_pace.delay_s()
            raise QuotaError("sessions", self.quotas.sessions, use=self.sessions, retry_after_s=delay_s)
        if not self.sessions:
            self._session_pace.began()
        began_s = self._clock()
        self.sessions += 1
        try:
            yield
        finally:
            self._session_pace.given_back(self._clock() - began_s, self.sessions)
            self.sessions -= 1

    def begin_upload(self) -> float:
        """Counts an upload until `end_upload`, which is given what this returns.

        Raises:
            QuotaError: As many are arriving as may.
        """
        most = self.quotas.unfinished_uploads
        if self.uploads >= most:
            raise QuotaError("unfinished_uploads", most, use=self.uploads, retry_after_s=self.upload_delay_s())
        if not self.uploads:
            self._upload_pace.began()
        self.uploads += 1
        return self._clock()

    def grow_upload(self, size_bytes: int, more_bytes: int, share_bytes: int) -> None:
        """Counts what more has come of an upload.

        Args:
            size_bytes: What it has with that.
            more_bytes: How much came.
            share_bytes: What several uploads of a caller may have together, in the room that there is.

        Raises:
            QuotaError: It is more than may arrive at once, or than may be kept.
        """
        quotas = self.quotas
        if quotas.stored_bytes and size_bytes > quotas.stored_bytes:
            raise QuotaError("stored_bytes", quotas.stored_bytes, use=size_bytes, retry_after_s=None)
        bound = min(quotas.unfinished_upload_bytes, max(share_bytes, size_bytes))
        if (use := self.arriving_bytes + more_bytes) > bound:
            delay_s = None if size_bytes > bound else self.upload_delay_s()
            raise QuotaError("unfinished_upload_bytes", bound, use=use, retry_after_s=delay_s)
        self.arriving_bytes += more_bytes

    def end_upload(self, size_bytes: int, began_s: float) -> None:
        """It has become a file, or is gone."""
        self._upload_pace.given_back(self._clock() - began_s, self.uploads)
        self.uploads -= 1
        self.arriving_bytes -= size_bytes

    def upload_delay_s(self) -> float:
        """Seconds after which one of its uploads should have ended."""
        return self._upload_pace.delay_s()


_BOUNDLESS = 10**18
NOBODY = Account("", "", Quotas(requests_per_s=_BOUNDLESS, pixels_per_s=_BOUNDLESS, sessions=_BOUNDLESS))
"""Of the server's own work."""
