"""What was left out, and why."""

from collections import Counter, defaultdict
from collections.abc import Sequence

from cutout_server.types import Omission, OmissionReason


class Omissions:
    """Counts what is left out, so that nothing is in silence."""

    def __init__(self) -> None:
        self._counts: dict[OmissionReason, Counter[int]] = defaultdict(Counter)  # By prompt.
        self._same: dict[int, Counter[int]] = defaultdict(Counter)  # By the phrase that others read like.
        self._below: dict[OmissionReason, tuple[float, float]] = {}  # A threshold, and the best value below it.

    def add(self, reason: OmissionReason, prompt_index: int, count: int = 1) -> None:
        """Masks of a prompt were left out."""
        if count:
            self._counts[reason][prompt_index] += count

    def below(self, reason: OmissionReason, threshold: float, values: Sequence[float]) -> None:
        """Masks of everything were left out, one for each value that does not reach a threshold."""
        if values:
            self.add(reason, 0, len(values))
            self._note(reason, threshold, max(values))

    def same(self, prompt_index: int, same_as: int) -> None:
        """A phrase was not asked, since it reads like another."""
        self._same[same_as][prompt_index] += 1

    def all(self) -> tuple[Omission, ...]:
        """In the order of the reasons; one for each phrase that others read like."""
        masks = (
            Omission(
                reason,
                self._counts[reason].total(),
                tuple(sorted(self._counts[reason])),
                *self._below.get(reason, ()),
            )
            for reason in OmissionReason
            if reason in self._counts
        )
        phrases = (
            Omission(OmissionReason.SAME_PHRASE, counts.total(), tuple(sorted(counts)), same_as=same_as)
            for same_as, counts in sorted(self._same.items())
        )
        return (*masks, *phrases)

    def _note(self, reason: OmissionReason, threshold: float, best: float) -> None:
        self._below[reason] = threshold, max(best, self._below.get(reason, (threshold, best))[1])
