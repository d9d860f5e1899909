"""How many slots of a device each caller has, and how many it may have."""

from collections import Counter
from collections.abc import Set as AbstractSet

# So much of the slots is never one caller's: whoever comes next finds one, however long those of others take.
RESERVE = 4


class Shares:
    """Counts slots by the party that has them. Belongs to the event loop.

    Args:
        capacity: How many slots there are.
    """

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._taken: Counter[str] = Counter()

    def of(self, party: str) -> int:
        """How many a party has."""
        return self._taken[party]

    def bound(self, party: str, quota: int, waiting: AbstractSet[str]) -> int:
        """How many a party may have: all but a quarter; its equal share while others were turned away.

        Args:
            party: Which one.
            quota: What is said of it by a setting; 0 for nothing.
            waiting: Who was turned away and is expected back.
        """
        bound = self._capacity - self._capacity // RESERVE
        if waiting - {party}:
            bound = min(bound, max(1, self._capacity // len({party, *waiting, *self._taken})))
        return min(bound, quota or bound)

    def take(self, party: str) -> None:
        """A party has one more."""
        self._taken[party] += 1

    def give(self, party: str) -> None:
        """A party has one less."""
        self._taken[party] -= 1
        if not self._taken[party]:
            del self._taken[party]
