"""How a picture is to be cut into tiles, and what has no meaning then."""

from cutout.v1 import segmentation_pb2
from google.protobuf.message import Message

from cutout_server.convert.checks import Checker
from cutout_server.types import Tiling

MIN_TILE_SIZE = 256
MAX_TILE_SIZE = 4096
MIN_OVERLAP = 0.05
MAX_OVERLAP = 0.5


def read_tiling(check: Checker, options: segmentation_pb2.SegmentationOptions) -> Tiling:
    """The tiles that the options ask for; how many they come to shows later."""
    size = options.tiling.tile_size or Tiling.tile_size
    check.require(
        MIN_TILE_SIZE <= size <= MAX_TILE_SIZE,
        "options.tiling.tile_size",
        f"expected {MIN_TILE_SIZE} to {MAX_TILE_SIZE}, got {size}",
    )
    check.require(
        not options.return_logits,
        "options.return_logits",
        "expected false with options.tiling: the logits of a tile are no prompt for the picture",
    )
    overlap = check.optional(options.tiling, "overlap", MIN_OVERLAP, MAX_OVERLAP, "options.tiling.")
    return Tiling(size, Tiling.overlap if overlap is None else overlap)


def check_tiled(check: Checker, message: Message, field: str) -> None:
    """Notes a field of a request that asks for tiles if it has a meaning in one part of the picture alone."""
    if message.options.HasField("tiling"):  # type: ignore[attr-defined]
        check.require(
            not getattr(message, field), field, "expected none with options.tiling: it is about one view of the picture"
        )
