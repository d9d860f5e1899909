"""Masks as they travel, read."""

from dataclasses import dataclass

import numpy as np
from cutout.v1 import mask_pb2
from cutout_common import masks
from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)  # arrays have no one answer to ==
class Polygon:
    """One connected part of a mask.

    Attributes:
        exterior: (N, 2) float32, (x, y) of the vertices, corners of pixels; the last joins the first.
        holes: The same for each hole.
    """

    exterior: NDArray[np.float32]
    holes: tuple[NDArray[np.float32], ...]


def decode(mask: mask_pb2.Mask) -> NDArray[np.bool_]:
    """(H, W) bool of a mask in any of its forms."""
    match mask.WhichOneof("encoding"):
        case "rle":
            height, width = mask.rle.size
            return masks.rle_decode(height, width, mask.rle.counts)
        case "png":
            return masks.png_decode(mask.png)
        case "bits":
            return masks.bits_decode(mask.bits.height, mask.bits.width, mask.bits.data)
        case "polygons":
            outlines = mask.polygons
            rings = [[_ring(ring) for ring in (each.exterior, *each.holes)] for each in outlines.polygons]
            return masks.polygons_decode(outlines.height, outlines.width, rings)
    raise ValueError("the server sent a mask in an encoding that this client does not know")


def polygons_of(mask: mask_pb2.PolygonMask) -> tuple[Polygon, ...]:
    """The outlines of a mask that came as such."""
    return tuple(Polygon(_ring(part.exterior), tuple(_ring(hole) for hole in part.holes)) for part in mask.polygons)


def _ring(message: mask_pb2.Ring) -> NDArray[np.float32]:
    return np.array(message.coordinates, np.float32).reshape(-1, 2)
