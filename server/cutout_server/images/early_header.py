"""Pictures whose rows are decoded before the file's end has arrived: plain RGB PNGs, which take long.

JPEGs are not among them: libjpeg-turbo's fast interface wants all of a file, and then takes less time than what follows
the last byte in the other one (`benchmarks/pictures.py` has the figures). Whatever is odd, too large or damaged comes
to nothing here: the whole file is looked at in the ordinary way then, which reads it or says what is wrong.
"""

import os
import struct
from dataclasses import dataclass
from typing import BinaryIO

from cutout_common.formats import PNG_SIGNATURE

from cutout_server.imaging.png_bands import decode_bands
from cutout_server.imaging.structure import MAX_PNG_CHUNKS
from cutout_server.types import RgbImage

_SPECIAL = (b"acTL", b"tRNS")  # Chunks that make values something else than the picture's pixels.


@dataclass(frozen=True)
class ArrivingPicture:
    """A file whose header has arrived.

    Attributes:
        width: Columns as stored.
        height: Rows as stored.
    """

    width: int
    height: int
    _file: BinaryIO

    def decode(self) -> RgbImage | None:
        """Decodes as the file is read.

        Returns:
            (H, W, 3) uint8 as stored, which is what the whole file would give; None for a damaged one.
        """
        try:
            return decode_bands(self._file, self.width, self.height)
        except (OSError, ValueError):
            return None


def look_at(file: BinaryIO) -> ArrivingPicture | None:
    """Reads a file's header; None unless it is 8-bit opaque RGB that is neither interlaced nor animated."""
    try:
        if file.read(len(PNG_SIGNATURE)) != PNG_SIGNATURE:
            return None
        length, kind, width, height, *form = struct.unpack(">I4sIIBBBBB", file.read(21))
        if (length, kind, form) != (13, b"IHDR", [8, 2, 0, 0, 0]):
            return None
        file.seek(4, os.SEEK_CUR)
        for _ in range(MAX_PNG_CHUNKS):
            length, kind = struct.unpack(">I4s", file.read(8))
            if kind == b"IDAT":
                return ArrivingPicture(width, height, file)
            if kind in _SPECIAL:
                return None
            file.seek(length + 4, os.SEEK_CUR)
    except (OSError, struct.error):
        pass
    return None
