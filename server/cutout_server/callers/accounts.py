"""What callers use of the server, held against their quotas before anything is paid for: one account for each."""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from ipaddress import IPv6Address, IPv6Network

from cutout_common import forwarded
from cutout_common.pace import Pace

from cutout_server.callers.bucket import Bucket
from cutout_server.callers.quotas import Quotas
from cutout_server.errors import QuotaError

# Callers without a key are as many as there are addresses: unused accounts leave when there are so many.
SWEEP = 1024
# Whoever has one address of IPv6 has all of its network, as a rule.
_IPV6_PREFIX = 64


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
        """An upload has become a file, or is gone."""
        self._upload_pace.given_back(self._clock() - began_s, self.uploads)
        self.uploads -= 1
        self.arriving_bytes -= size_bytes

    def upload_delay_s(self) -> float:
        """Seconds after which one of its uploads should have ended."""
        return self._upload_pace.delay_s()


_BOUNDLESS = 10**18
NOBODY = Account("", "", Quotas(requests_per_s=_BOUNDLESS, pixels_per_s=_BOUNDLESS, sessions=_BOUNDLESS))
"""The account of the server's own work."""


@dataclass
class Use:
    """What a caller uses of the server at one moment, by the names of its quotas."""

    name: str
    requests_in_hand: int = 0
    sessions: int = 0
    stored_images: int = 0
    stored_bytes: int = 0
    unfinished_uploads: int = 0
    unfinished_upload_bytes: int = 0


def party_of(peer: str) -> str:
    """What counts as one caller where nobody has a key: an address, or its network of IPv6 addresses.

    Args:
        peer: The call's origin in gRPC's notation, with or without a port. Other kinds of peers stay as they are.
    """
    kind, _, rest = peer.partition(":")
    address = forwarded.address(rest) if kind in {"ipv4", "ipv6"} else ""
    if ":" in address:
        return str(IPv6Network((int(IPv6Address(address)), _IPV6_PREFIX), strict=False))
    return address or peer


class Accounts:
    """An account for each party: whoever has a key, or, where nobody has, each address. Belongs to the event loop."""

    def __init__(self) -> None:
        self._accounts: dict[str, Account] = {}
        self._sweep_at = SWEEP
        self._default = Quotas()
        self._by_caller: Mapping[str, Quotas] = {}

    def __len__(self) -> int:
        return len(self._accounts)

    def allow(self, default: Quotas, by_caller: Mapping[str, Quotas]) -> None:
        """Sets quotas: of callers by their names, and of all others. What is used already stays counted."""
        self._default = default
        self._by_caller = by_caller
        for account in self._accounts.values():
            account.allow(self._quotas(account.caller))

    def of(self, party: str, caller: str) -> Account:
        """A party's account."""
        account = self._accounts.get(party)
        if account is None:
            if len(self._accounts) >= self._sweep_at:
                self._accounts = {key: account for key, account in self._accounts.items() if not account.is_idle}
                self._sweep_at = max(SWEEP, 2 * len(self._accounts))
            account = self._accounts[party] = Account(party, caller, self._quotas(caller))
        return account

    def uses(self) -> list[Use]:
        """What each caller uses now, all its addresses together. Safe from any thread: it only reads."""
        uses = {name: Use(name) for name in sorted(self._by_caller)}
        for account in list(self._accounts.values()):
            use = uses.setdefault(account.caller, Use(account.caller))
            use.requests_in_hand += account.requests_in_hand
            use.sessions += account.sessions
            use.stored_images += account.stored_images
            use.stored_bytes += account.stored_bytes
            use.unfinished_uploads += account.uploads
            use.unfinished_upload_bytes += account.arriving_bytes
        return list(uses.values())

    def _quotas(self, caller: str) -> Quotas:
        return self._by_caller.get(caller, self._default)
