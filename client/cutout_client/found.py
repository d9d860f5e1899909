"""What words found in a frame of a video, and what became of it."""

from dataclasses import dataclass

from cutout.v1 import tracking_service_pb2

from cutout_client import errors
from cutout_client.errors import CutoutError


@dataclass(frozen=True)
class FoundObject:
    """An object that words found, and that is followed from there on.

    Attributes:
        object_id: The id that it goes by.
        label: The phrase.
        score: The detector's, in [0, 1].
    """

    object_id: int
    label: str
    score: float


@dataclass(frozen=True)
class FoundObjects:
    """What words found in a frame.

    Attributes:
        objects: Those that begin there, the highest score first.
        known: How many more were followed already.
        too_many: How many more are beyond what the server follows at once.
        not_begun: How many more could not begin, as `error` says.
        error: Why words were not looked for at all, or, where `not_begun` is not 0, why these objects did not begin.
    """

    objects: tuple[FoundObject, ...]
    known: int
    too_many: int
    not_begun: int
    error: CutoutError | None


def read_found(message: tracking_service_pb2.FoundObjects, request_id: str) -> FoundObjects:
    """Reads what words found."""
    return FoundObjects(
        objects=tuple(FoundObject(each.object_id, each.label, each.score) for each in message.objects),
        known=message.known,
        too_many=message.too_many,
        not_begun=message.not_begun,
        error=errors.from_status(message.error, request_id) if message.HasField("error") else None,
    )
