"""`python small_sam2_server.py SIDE [FLAG ...]`: the server, which takes SAM 2 for pictures of SIDE pixels a side.

Small, a video of thousands of frames takes minutes. The server itself holds SAM 2 to 1024, as the official predictor
for pictures knows nothing else; the one for videos does.
"""

import runpy
import sys

from cutout_server.models.sam2 import architecture

if __name__ == "__main__":
    program, side, *flags = sys.argv
    architecture._SIDE = int(side)  # noqa: SLF001 - nobody but a benchmark wants it
    sys.argv = [program, *flags]
    runpy.run_module("cutout_server", run_name="__main__")
