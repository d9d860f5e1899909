"""The cut: labels that follow the evidence and change only along edges.

The convex form of the graph cut, min over u in [0, 1] of sum g |grad u| - e u, solved by the primal-dual iteration of
Chambolle and Pock (J. Math. Imaging Vis. 40, 2011). Against the discrete cut it takes any evidence, needs no random
start, starts from an earlier answer, and its result is soft where the choice is close.
"""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from cutout_server.models.builtin.superpixels import Lab

_STEP = 0.35  # Both step sizes; their product times the operator's norm of 8 must stay below 1.
_FLOOR = 0.05  # A boundary costs this much even along the sharpest edge, against ragged outlines.


@dataclass(frozen=True)
class Edges:
    """What a boundary costs between a pixel and its right and lower neighbour, (h, w) float32 each."""

    right: NDArray[np.float32] = field(repr=False)
    below: NDArray[np.float32] = field(repr=False)

    @classmethod
    def of(cls, lab: Lab) -> "Edges":
        """exp(-b d^2) of the colour distance d, with b as in GrabCut (Rother, Kolmogorov and Blake 2004)."""
        right, below = np.zeros(lab.shape[:2], np.float32), np.zeros(lab.shape[:2], np.float32)
        across, down = np.diff(lab, axis=1), np.diff(lab, axis=0)
        right[:, :-1] = np.einsum("ijk,ijk->ij", across, across)
        below[:-1] = np.einsum("ijk,ijk->ij", down, down)
        beta = 1 / max(1e-6, float(right.mean() + below.mean()))
        right, below = np.exp(-beta * right) + _FLOOR, np.exp(-beta * below) + _FLOOR
        right[:, -1] = below[-1] = 0
        return cls(right, below)


def cut(
    evidence: NDArray[np.float32], edges: Edges, start: NDArray[np.float32], iterations: int = 50
) -> NDArray[np.float32]:
    """Labels.

    Args:
        evidence: (h, w) float32, positive speaks for inside; very large values decide.
        edges: Of the same picture.
        start: (h, w) float32 in [0, 1], a guess.
        iterations: Fifty are enough from a fair guess.

    Returns:
        (h, w) float32 in [0, 1].
    """
    labels = start.astype(np.float32)
    ahead, push = labels.copy(), evidence * np.float32(_STEP)
    right, below = np.zeros_like(labels), np.zeros_like(labels)
    low_right, low_below = -edges.right, -edges.below
    for _ in range(iterations):
        right[:, :-1] += _STEP * (ahead[:, 1:] - ahead[:, :-1])
        below[:-1] += _STEP * (ahead[1:] - ahead[:-1])
        np.clip(right, low_right, edges.right, out=right)
        np.clip(below, low_below, edges.below, out=below)
        flow = right + below
        flow[:, 1:] -= right[:, :-1]
        flow[1:] -= below[:-1]
        flow *= np.float32(_STEP)
        flow += labels
        flow += push
        np.clip(flow, 0, 1, out=flow)
        np.subtract(2 * flow, labels, out=ahead)
        labels = flow
    return labels
