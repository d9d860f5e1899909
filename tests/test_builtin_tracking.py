"""The built-in model follows objects."""

import sys
from pathlib import Path

import numpy as np
import pytest
from cutout_common.masks import rle_encode
from cutout_server.models.builtin import load
from cutout_server.models.builtin.model import Builtin
from cutout_server.models.protocols import Tracker
from cutout_server.models.queries import MaskQuery, Tracked, TrackQuery
from cutout_server.types import ModelFiles, ObjectPrompt, Rle
from skimage import data
from test_service_tracking import SIZE, iou, picture, truth

sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))

import tracking


@pytest.fixture(scope="module")
def model() -> Builtin:
    return load(ModelFiles(), "cpu")


def step(model: Builtin, pixels: np.ndarray, number: int, memory: object, prompt: object = None) -> Tracked:
    (embedding,) = model.encode([pixels])
    return model.track([TrackQuery(embedding, number, memory, prompt, number)])[0]


def given(mask: np.ndarray) -> Rle:
    return Rle(*mask.shape, rle_encode(mask))


def test_it_follows_better_than_the_first_mask_repeated():
    """Real photographs that move, turn and grow over others; see the benchmark."""
    (video,) = [each for each in tracking.videos(8, tuned_on=True) if each.name == "coffee/cup"]
    row, _ = tracking.measure([video])
    assert min(row["J mask"], row["J box"]) > 0.6
    assert row["J repeated"] < 0.2


def test_what_is_hidden_is_not_there_and_is_found_again(model: Builtin):
    """For some frames only the background is to be seen."""
    background = np.ascontiguousarray(data.chelsea()[100 : 100 + SIZE[0], 100 : 100 + SIZE[1]])
    memory, presences = None, []
    for number in range(9):
        pixels = background if 3 <= number < 6 else picture(number)
        answer = step(model, pixels, number, memory, None if number else given(truth(0)))
        memory = answer.memory
        presences.append(answer.presence > 0.5)
        assert presences[-1] == bool((answer.logits > 0).any())
    assert presences == [True] * 3 + [False] * 3 + [True] * 3
    (embedding,) = model.encode([picture(8)])
    assert iou(model.masks([MaskQuery(embedding, answer.logits, 0.0)])[0].whole(), truth(8)) > 0.6


def test_memory_does_not_grow_with_the_frames(model: Builtin):
    """Nor does the model keep anything: an older memory gives the older answer again."""
    memory, sizes, told = None, [], set()
    for number in range(40):
        prompt = given(truth(number % 4)) if number % 9 == 0 else None
        answer = step(model, picture(number % 4), number, memory, prompt)
        if number == 20:
            older, again = memory, answer
        memory = answer.memory
        sizes.append(memory.nbytes)
        told.add(memory.grown(1))
    assert max(sizes) <= max(told) == min(told)
    assert max(sizes[20:]) <= 1.05 * max(sizes[:20])
    assert np.array_equal(step(model, picture(0), 20, older).logits, again.logits)


def test_frames_of_any_size_are_followed(model: Builtin):
    """Down to some pixels, for which motion cannot be measured."""
    for size in ((3, 5), (16, 400), (400, 16)):
        pixels = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
        memory = step(model, pixels, 0, None, given(np.ones(size, np.bool_))).memory
        answer = step(model, pixels, 1, memory)
        assert answer.presence > 0.5
        assert answer.memory.nbytes <= answer.memory.grown(1) == memory.grown(1)


def test_what_cannot_be_followed_is_refused(model: Builtin):
    """An object of which nothing was said; and it fills in the Protocol."""
    with pytest.raises(ValueError, match="no prompt"):
        step(model, picture(0), 0, None)
    assert step(
        model,
        picture(0),
        0,
        None,
        ObjectPrompt(points=np.array([[36.0, 40.0]], np.float32), labels=np.ones(1, np.int32)),
    ).presence
    assert isinstance(model, Tracker)
