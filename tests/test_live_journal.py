"""What is kept of a live session, and said again to a server that knows nothing of it."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from cutout.v1 import tracking_service_pb2 as pb2
from cutout_client.images import PixelPicture
from cutout_client.live_journal import Journal, Said
from test_service_tracking import boxed, frame, masked, picture, truth


def noted(journal: Journal, number: int, found: Mapping[int, np.ndarray | None], *prompts: pb2.TrackPrompt) -> None:
    """A frame in which objects are seen, or not."""
    request = frame(number, *prompts)
    request.frame.ClearField("image")
    journal.frame(Said(request, PixelPicture(picture(number))), answer(number, found))


def answer(number: int, found: Mapping[int, np.ndarray | None]) -> pb2.TrackedFrame:
    objects = [
        pb2.TrackedObject(object_id=each, present=mask is not None, masks=[] if mask is None else [{"rle": rle(mask)}])
        for each, mask in found.items()
    ]
    return pb2.TrackedFrame(frame_index=number, objects=objects)


def rle(mask: np.ndarray) -> Any:
    return masked(0, mask).mask


def replayed(journal: Journal) -> list[tuple[int, list[pb2.TrackPrompt]]]:
    said = [each.message() for each in journal.replay()]
    kinds = [each.correct if each.HasField("correct") else each.frame for each in said]
    assert all(each.HasField("image") for each in kinds if isinstance(each, pb2.Frame))
    return [(each.frame_index, list(each.prompts)) for each in kinds]


def test_a_session_is_said_again_by_few_frames():
    """Those that can be corrected, and for an object that is in none of them the one in which it was seen last."""
    journal, mask = Journal(2), truth(1)
    noted(journal, 0, {1: mask, 2: mask, 3: None}, *(boxed(number) for number in (1, 2, 3)))
    noted(journal, 1, {1: mask, 2: None, 3: None})
    assert replayed(journal) == [(0, [boxed(1), boxed(2), boxed(3)]), (1, [])]
    noted(journal, 2, {1: mask, 2: None, 3: None})
    noted(journal, 3, {1: mask, 2: None, 3: None})
    correction = Said(pb2.TrackObjectsRequest(correct={"frame_index": 3, "prompts": [boxed(1)]}))
    journal.correction(correction, answer(3, {1: ~mask}))
    earlier = (0, [boxed(2), boxed(3)])
    assert replayed(journal) == [earlier, (2, [masked(1, mask)]), (3, []), (3, [boxed(1)])]
    noted(journal, 4, {1: mask, 2: None, 3: None})
    assert replayed(journal) == [earlier, (3, [masked(1, ~mask)]), (4, [])]  # The mask has its correction already.
    journal.removed([1, 2])
    assert replayed(journal)[0] == (0, [boxed(2)])
    noted(journal, 5, {1: mask, 2: mask})
    assert replayed(journal) == [(4, [masked(1, mask)]), (5, [masked(2, mask)])]
