"""Masks made in parts are, pixel for pixel, those that torch makes of the whole picture."""

import weakref
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from cutout_server.models.bilinear import Interpolation, Taps
from cutout_server.models.sam.longest_side import interpolations as of_square
from cutout_server.models.upscale import Upscaling
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode

THRESHOLDS = (-1.0, 0.0, 0.3, 1.5)
SIZES = st.one_of(
    st.tuples(st.integers(1, 900), st.integers(1, 900)),
    st.tuples(st.integers(1, 20), st.integers(100, 9000)),
    st.tuples(st.integers(100, 3000), st.integers(120, 140)),
)
KINDS = ("noise", "steps", "blobs", "plain", "on the threshold", "empty", "huge", "broken")


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(autouse=True)
def no_picture_is_small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small ones are interpolated as a whole, which would leave little to be compared."""
    monkeypatch.setattr("cutout_server.models.upscale._SMALL", 0)


def logits_of(kind: str, shape: tuple[int, int], seed: int) -> torch.Tensor:
    chance = torch.Generator().manual_seed(seed)
    noise = torch.randn((1, *shape), generator=chance) * 5
    coarse = noise[:, None, : 1 + shape[0] // 16, : 1 + shape[1] // 16]
    plain = torch.full((1, *shape), -2.0)
    plain[:, shape[0] // 3 : shape[0] // 2 + 1, shape[1] // 4 :] = 2.5
    return {
        "noise": noise,
        "steps": noise.round(),
        "blobs": functional.interpolate(coarse, shape, mode="bicubic")[:, 0] - 3,
        "plain": plain,
        "on the threshold": torch.full((1, *shape), 0.3),
        "empty": -1 - noise.abs(),
        "huge": noise * 1e30,
        "broken": torch.where(noise > 15, torch.nan, noise),
    }[kind]


def of_everything(logits: torch.Tensor, interpolations: tuple[Interpolation, ...]) -> torch.Tensor:
    """The reference, written out: interpolate, cut, and again."""
    for interpolation in interpolations:
        logits = functional.interpolate(logits[:, None], interpolation.size, mode="bilinear", align_corners=False)[:, 0]
        logits = logits[:, : interpolation.kept[0], : interpolation.kept[1]]
    return logits


def assert_same(logits: torch.Tensor, interpolations: tuple[Interpolation, ...]) -> None:
    source = (logits.shape[1], logits.shape[2])
    (levels,) = Upscaling(source, interpolations).levels(logits, THRESHOLDS)
    whole = of_everything(logits, interpolations)[0]
    for index, threshold in enumerate(THRESHOLDS):
        assert np.array_equal(levels.patch(index).whole(), (whole > threshold).numpy())
        assert levels.areas()[index] == int((whole > threshold).sum())


@settings(max_examples=150, deadline=None)
@given(SIZES, SIZES, st.sampled_from(KINDS), st.integers(0, 1 << 30))
def test_any_logits_over_the_picture(shape, size, kind, seed):
    """Any sizes of logits and picture, up and down, and logits of many kinds."""
    shape = (min(shape[0], 400), min(shape[1], 400))
    assert_same(logits_of(kind, shape, seed), (Interpolation(size, size),))


@settings(max_examples=80, deadline=None)
@given(SIZES, st.sampled_from(KINDS), st.integers(0, 1 << 30))
def test_any_logits_over_the_padded_square(size, kind, seed):
    """Two interpolations with a cut between, as SAM 1 has them."""
    assert_same(logits_of(kind, (256, 256), seed), of_square(size, 1024))


@pytest.mark.parametrize("interpolations", [(Interpolation((600, 803), (600, 803)),), of_square((431, 640), 1024)])
def test_thresholds_that_pixels_lie_on(interpolations):
    """Of a pixel that is at the threshold to the last bit torch's own rounding decides."""
    logits = logits_of("blobs", (256, 256), 1)
    upscaling = Upscaling((256, 256), interpolations)
    whole = of_everything(logits, interpolations)[0]
    for threshold in whole.flatten()[:: whole.numel() // 60].tolist():
        (levels,) = upscaling.levels(logits, [threshold])
        assert np.array_equal(levels.patch(0).whole(), (whole > threshold).numpy())


def test_weights_are_those_of_torch():
    """For sizes near each other, for those of a few pixels, and far up and down."""
    pairs = [(n, n + k) for n in (1, 2, 3, 64, 100) for k in (-1, 0, 1, 2, 7) if n + k > 0]
    for source, size in [*pairs, (96, 400), (5, 3000), (100, 3)]:
        taps = Taps.of(source, size, size)
        # Each with one row lit; as wide as a picture, as beside few columns torch rounds in another way.
        rows = torch.eye(source)[:, None, :, None].expand(source, 1, source, 150)
        expected = functional.interpolate(rows, (size, 150), mode="bilinear")[:, 0, :, 0].T.numpy()
        weights = np.zeros((size, source), np.float32)
        weights[np.arange(size), taps.second] = taps.share
        weights[np.arange(size), taps.first] += 1 - taps.share
        inner = taps.first < taps.second
        assert np.array_equal(weights[inner], expected[inner]), (source, size)


class Largest(TorchDispatchMode):
    """Takes down the bytes of the largest tensor that is made."""

    nbytes = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        made = func(*args, **kwargs or {})
        if isinstance(made, torch.Tensor):
            self.nbytes = max(self.nbytes, made.nbytes)
        return made


def test_memory_does_not_grow_with_objects_times_pixels():
    """Nothing that is made for small objects in a 48-megapixel picture is near its size, however many there are."""
    y, x = np.mgrid[:256, :256].astype(np.float32)
    centres = np.random.default_rng(0).uniform(20, 236, (24, 2))
    logits = torch.from_numpy(np.stack([9 - np.hypot(y - cy, x - cx) for cy, cx in centres], dtype=np.float32))
    upscaling = Upscaling((256, 256), (Interpolation((6000, 8000), (6000, 8000)),))
    with Largest() as largest:
        patches = [levels.patch(0) for levels in upscaling.levels(logits, [0.0])]
    assert len(patches) == 24
    assert all(100_000 < patch.inside.nbytes < 400_000 for patch in patches)
    assert largest.nbytes < logits.nbytes + 1_000_000


def test_large_objects_are_made_strip_by_strip():
    """Of one that fills a 12-megapixel picture, the mask is all that is made at that size."""
    with Largest() as largest:
        (levels,) = Upscaling((256, 256), (Interpolation((3000, 4000), (3000, 4000)),)).levels(
            logits_of("noise", (256, 256), 3), [0.0]
        )
    assert levels.inside.nbytes == largest.nbytes == 3000 * 4000


def test_one_object_is_in_hand_at_a_time():
    """Whoever lets go of the masks of one has them freed before the next one's are made."""
    logits = torch.cat([logits_of("noise", (64, 64), seed) for seed in range(5)])
    before: weakref.ref | None = None
    for levels in Upscaling((64, 64), (Interpolation((700, 500), (700, 500)),)).levels(logits, THRESHOLDS):
        assert before is None or before() is None
        before = weakref.ref(levels.inside)
        del levels


def test_no_logits_at_all():
    """What comes of a mask filter that nothing passed."""
    for size in ((20, 30), (600, 803)):
        assert list(Upscaling((64, 64), (Interpolation(size, size),)).levels(torch.zeros(0, 64, 64), THRESHOLDS)) == []
