"""How callers share the room for uploaded pictures: whoever has most makes room, and what still arrives counts."""

from collections.abc import Callable, Collection
from dataclasses import dataclass

from cutout_server.callers.accounts import Account
from cutout_server.errors import QuotaError


@dataclass(frozen=True)
class Bound:
    """One of what the store is bounded in.

    Attributes:
        quota: Name of the callers' quota of it.
        most: How much there may be.
        of: How much an account has.
    """

    quota: str
    most: int
    of: Callable[[Account], int]

    def giver(self, taker: Account, amount: int, holders: Collection[Account]) -> Account:
        """Whose file leaves so that there is room for another's.

        Args:
            taker: Who wants room.
            amount: How much.
            holders: Whoever has files, each of which can leave.

        Raises:
            QuotaError: The taker would have most of all, and has no file that could leave.
        """
        use = self.of(taker) + amount
        greatest = max(holders, key=self.of, default=None)
        if taker in holders and (greatest is None or self.of(greatest) <= use):
            return taker
        if greatest is None or self.of(greatest) < use:
            share = self.most // len({taker, *holders})
            raise QuotaError(self.quota, share, use=use, retry_after_s=taker.upload_delay_s())
        return greatest
