"""Masks of every awkward kind, shared by the tests of encodings."""

import numpy as np
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

MASKS = arrays.arrays(np.bool_, arrays.array_shapes(min_dims=2, max_dims=2, max_side=24), elements=st.booleans())


def spiral(size=31):
    """One part, one pixel wide, wound inwards."""
    mask = np.zeros((size, size), np.bool_)
    row, column, step = 0, -1, (0, 1)
    for length in [size, *(n for n in range(size - 1, 0, -2) for _ in (0, 1))]:
        for _ in range(length):
            row, column = row + step[0], column + step[1]
            mask[row, column] = True
        step = (step[1], -step[0])
    return mask


def rings(size=41):
    """Islands in the holes of islands."""
    y, x = np.mgrid[:size, :size] - size // 2
    return (np.hypot(x, y) // 3 % 2 == 0) & (np.hypot(x, y) < size / 2)


def checkerboard(height=16, width=17):
    """Pixels that touch only at corners."""
    return np.indices((height, width)).sum(axis=0) % 2 == 0


SHAPES = {
    "one pixel": np.ones((1, 1), np.bool_),
    "no pixel": np.zeros((1, 1), np.bool_),
    "empty": np.zeros((9, 14), np.bool_),
    "full": np.ones((9, 14), np.bool_),
    "row": np.ones((1, 40), np.bool_),
    "column": np.ones((40, 1), np.bool_),
    "full columns": np.tile([False, True, True, False, True], (7, 2)),
    "full rows": np.tile([False, True, True, False, True], (7, 2)).T.copy(),
    "checkerboard": checkerboard(),
    "inverted checkerboard": ~checkerboard(),
    "spiral": spiral(),
    "rings": rings(),
    "corners": np.eye(12, dtype=np.bool_),
    "noise": np.random.default_rng(1).random((53, 67)) < 0.5,
    "dust": np.random.default_rng(2).random((53, 67)) < 0.02,
    "pierced": np.random.default_rng(3).random((53, 67)) < 0.97,
}
