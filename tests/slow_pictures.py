"""Small files that take long to decode."""

import io

import numpy as np
from PIL import Image

_SCAN = b"\xff\xda"


def many_scans(side: int, scans: int) -> bytes:
    """A grey progressive JPEG whose last scan, which has next to nothing in it, comes again and again."""
    file = io.BytesIO()
    Image.fromarray(np.full((side, side), 90, np.uint8)).save(file, "JPEG", progressive=True)
    content = file.getvalue()
    last = content[content.rfind(_SCAN) : -2]
    return content[:-2] + last * (scans - content.count(_SCAN)) + content[-2:]
