"""What a project's labelling interface says about the masks that it wants."""

from collections.abc import Sequence
from dataclasses import dataclass
from xml.etree import ElementTree as ET

BRUSH, POLYGON = "BrushLabels", "PolygonLabels"


@dataclass(frozen=True)
class Target:
    """The tag that takes masks.

    Attributes:
        kind: BRUSH or POLYGON.
        from_name: Its own name.
        to_name: That of the picture's tag.
        labels: What there is to choose from.
        field: Where a task has its picture.
    """

    kind: str
    from_name: str
    to_name: str
    labels: tuple[str, ...]
    field: str

    def label(self, wanted: str) -> str:
        """The label for something that was called so; the only one when there is no other."""
        named = next((label for label in self.labels if label.lower() == wanted.lower()), None)
        return named or (self.labels[0] if len(self.labels) == 1 else wanted)


def read_target(label_config: str, kinds: Sequence[str]) -> Target:
    """The first tag of the kinds, in their order, that belongs to a picture.

    Raises:
        ValueError: There is none, or the configuration is no XML.
    """
    try:
        root = ET.fromstring(label_config)  # noqa: S314 - expat itself bounds what entities come to
    except ET.ParseError as error:
        raise ValueError(f"label_config is no XML: {error}") from error
    pictures = {tag.get("name", ""): tag.get("value", "").removeprefix("$") for tag in root.iter("Image")}
    for kind in kinds:
        for tag in root.iter(kind):
            to_name = tag.get("toName", "")
            if to_name in pictures:
                labels = tuple(label.get("value", "") for label in tag.iter("Label"))
                return Target(kind, tag.get("name", ""), to_name, labels, pictures[to_name])
    raise ValueError(f"label_config must have {' or '.join(kinds)} for an Image: masks are written there")
