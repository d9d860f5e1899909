"""Names of objects, numbered as they first come up."""

from cutout_client.objects import SegmentedObject

UNLABELLED = "object"  # Boxes, points and everything give no label.


def name_of(each: SegmentedObject) -> str:
    """What an object is called where it must have a name."""
    return each.name or UNLABELLED


class Classes:
    """Numbers from `first` on."""

    def __init__(self, first: int = 0) -> None:
        self._first = first
        self._numbers: dict[str, int] = {}

    def number(self, each: SegmentedObject) -> int:
        """The number of the object's class."""
        return self._numbers.setdefault(name_of(each), self._first + len(self._numbers))

    @property
    def names(self) -> dict[int, str]:
        """By their numbers."""
        return {number: name for name, number in self._numbers.items()}
