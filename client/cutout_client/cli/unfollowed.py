"""What words found and what is not followed, or that they were not looked for, told once at the end."""

from collections.abc import Iterator

from cutout_client.found import FoundObjects


class Unfollowed:
    """Counts over the frames in which words were to be looked for. The same object may be found in each of them."""

    def __init__(self) -> None:
        self._too_many: list[int] = []
        self._not_begun: list[int] = []
        self._not_looked_for = 0
        self._why = ""
        self._why_not_looked_for = ""

    def add(self, found: FoundObjects | None) -> None:
        """Takes a frame in."""
        if found is None:
            return
        if found.too_many:
            self._too_many.append(found.too_many)
        if found.not_begun:
            self._not_begun.append(found.not_begun)
            self._why = str(found.error)
        elif found.error is not None:
            self._not_looked_for += 1
            self._why_not_looked_for = str(found.error)

    def lines(self) -> Iterator[str]:
        """What there is to say."""
        if self._too_many:
            yield f"{_found(self._too_many)} beyond those that the server follows at once"
        if self._not_begun:
            yield f"{_found(self._not_begun)} that could not be followed: {self._why}"
        if self._not_looked_for:
            yield f"words were not looked for in {_frames(self._not_looked_for)}: {self._why_not_looked_for}"


def _found(counts: list[int]) -> str:
    most = max(counts)
    return f"words found {'up to ' if len(counts) > 1 else ''}{most} object{'s'[: most > 1]} in {_frames(len(counts))}"


def _frames(count: int) -> str:
    return f"{count} frame{'s'[: count > 1]}"
