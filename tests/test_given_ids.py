"""Ids that words give, beside very many of the caller's own: what is remembered of those is bounded."""

import random
from math import inf
from types import SimpleNamespace

import pytest
from cutout_common.masks import rle_encode
from cutout_server import call_context, types
from cutout_server.pipelines import finding
from cutout_server.pipelines.finding import Finder, Finds
from test_service_tracking import SIZE
from test_tracking_words_fail import CORNER


class Follows:
    """Follows whatever is asked."""

    async def correct(self, request: types.CorrectionRequest) -> types.TrackedFrame:
        objects = [
            types.TrackedObject(number, present=True, presence=1.0, predicted_iou=1.0) for number in request.prompts
        ]
        return types.TrackedFrame(request.index, None, tuple(objects), corrected=True)


async def given(finder: Finder) -> list[int]:
    """The ids that one find gets, in a frame in which nothing is followed."""
    call_context.begin(call_context.Call("id", "caller", inf))
    finds = Finds([("corner", 0.9, types.Rle(*SIZE, rle_encode(CORNER)))])
    frame = types.TrackedFrame(0, None, (), corrected=False)
    _, told, _ = await finder.begin(Follows(), finds, frame)
    assert len(told.objects) + told.too_many == 1
    return [each.object_id for each in told.objects]


@pytest.fixture(autouse=True)
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(finding, "_MOST_USED", 100)


@pytest.mark.parametrize("first_id", [1, 700, 2**31])
async def test_very_many_ids(first_id: int):
    """No id is given twice, nor one that the caller used at any time, whichever those are."""
    finder = Finder(SimpleNamespace(), max_objects=9, first_id=first_id)
    chance, taken, before = random.Random(first_id), set[int](), 0  # noqa: S311
    for turn in range(400):
        mine = [chance.randrange(0, 3_000) for _ in range(5)] + [2**31 + turn * 3, 4_000 + turn]
        finder.used(mine)
        taken.update(mine)
        (number,) = await given(finder)
        assert number not in taken
        assert number >= max(first_id, before)
        taken.add(number)
        before = number
        assert len(finder._used) <= 100


async def test_few_ids_are_remembered_one_by_one():
    """The least free ones are given."""
    finder = Finder(SimpleNamespace(), max_objects=9)
    finder.used([1, 2, 4, 90])
    assert [await given(finder) for _ in range(3)] == [[3], [5], [6]]


async def test_nothing_begins_once_all_ids_are_used():
    """Whoever uses the last ids finds no more."""
    finder = Finder(SimpleNamespace(), max_objects=9)
    finder.used(range(2**32 - 200, 2**32))
    finder.used(range(2**32 - 200, 2**32))
    numbers = [number for _ in range(120) for number in await given(finder)]
    assert all(number < 2**32 for number in numbers)
    assert await given(finder) == []
