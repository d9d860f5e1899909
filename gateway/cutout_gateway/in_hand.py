"""Bytes of clients that the gateway has in hand: bodies until the server has them, answers until their clients do."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

from cutout_common.allowance import Allowance, Held, NoRoomError
from cutout_common.heap import Trimmer
from starlette.datastructures import Headers

from cutout_gateway.errors import no_room
from cutout_gateway.settings import GatewaySettings

# For room, before a request is turned away.
ROOM_S = 10.0


def client_of(headers: Headers, address: str) -> str:
    """Whose share it is: that of a key, or, without one, that of an address."""
    key = headers.get("x-api-key") or headers.get("authorization", "")
    return hashlib.sha256(key.encode()).hexdigest() if key else address


class InHand:
    """What all requests have in hand.

    Attributes:
        bodies: Room for bodies.
        answers: Room for answers.
    """

    def __init__(self, settings: GatewaySettings) -> None:
        self.bodies = self._allowance(settings.max_received_bytes, settings.client_share)
        self.answers = self._allowance(settings.max_answer_bytes, settings.client_share)
        self._trimmer = Trimmer()

    @contextmanager
    def of(self, client: str) -> Iterator[tuple["Part", "Part"]]:
        """What one request has: of its body, and of its answer; given back at the end of the block."""
        with self.bodies.hold(client) as body, self.answers.hold(client) as answer:
            yield Part("bodies", body, self._trimmer), Part("answers", answer, self._trimmer)

    @staticmethod
    def _allowance(total: int, share: float) -> Allowance:
        return Allowance(total, int(total * share))


class Part:
    """What a request has of one of the two.

    Args:
        what: Its name, for errors.
        held: What is held.
        trimmer: Hears of what is dropped.
    """

    def __init__(self, what: str, held: Held, trimmer: Trimmer) -> None:
        self._what = what
        self._held = held
        self._trimmer = trimmer

    async def add(self, nbytes: int, patience_s: float = ROOM_S) -> None:
        """So many more are in hand, as soon as there is room for them.

        Raises:
            HttpError: 429 when there is no room for them.
        """
        try:
            await self._held.grow(self._held.amount + nbytes, patience_s)
        except NoRoomError as full:
            raise no_room(self._what, of_client=full.of_caller, retry_after_s=full.retry_after_s) from None

    def drop(self, nbytes: int | None = None) -> None:
        """So many are used no more; all of them if it does not say how many."""
        dropped = self._held.amount if nbytes is None else nbytes
        self._held.shrink(self._held.amount - dropped)
        self._trimmer.freed(dropped)
