"""How many calls there may be at once, of one caller and in all."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from cutout_common.allowance import Allowance, NoRoomError

from cutout_server.errors import OverloadedError


class Places:
    """A bounded number of something; one too many is turned away at once.

    Args:
        what: Its name, in the plural, for errors.
        total: How many there may be.
        share: How many one caller may have.
    """

    def __init__(self, what: str, total: int, share: int) -> None:
        self._what = what
        self._places = Allowance(total, share)

    @asynccontextmanager
    async def one(self, caller: str) -> AsyncIterator[None]:
        """Takes a place for the block.

        Raises:
            OverloadedError: None is free.
        """
        with self._places.hold(caller) as place:
            try:
                await place.grow(1, 0)
            except NoRoomError as full:
                have = (
                    f"{caller} has {self._places.of(caller)}" if full.of_caller else f"there are {self._places.in_use}"
                )
                raise OverloadedError(
                    f"{have} {self._what} at once; try again in {full.retry_after_s:.1f} s",
                    reason=f"TOO_MANY_{self._what.upper()}",
                    retry_after_s=full.retry_after_s,
                ) from None
            yield
