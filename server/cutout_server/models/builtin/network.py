"""The network, by ONNX Runtime: crops with their prompts in, masks and how good they are out.

`training/` says how it was made. ONNX Runtime takes 0.6 of the time of OpenCV's own `dnn`.
"""

import os
from pathlib import Path

import numpy as np
import onnxruntime
from numpy.typing import NDArray

WEIGHTS = Path(__file__).with_name("network.onnx")
CHANNELS = 7  # Red, green, blue, box, clicks inside, clicks outside, mask before.
MASKS = 3

_MOST_THREADS = 4  # A crop is small.


class Network:
    """A session. Safe to use from several threads at once."""

    def __init__(self, weights: Path = WEIGHTS) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = min(len(os.sched_getaffinity(0)), _MOST_THREADS)
        # Threads that wait for work would take the cores of the server's other models.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self._session = onnxruntime.InferenceSession(str(weights), options, providers=["CPUExecutionProvider"])
        self.nbytes = 2 * weights.stat().st_size  # They are stored in half precision and used in single.

    def __call__(self, crops: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Looks at crops.

        Args:
            crops: (N, 7, S, S) float32, S a multiple of 16; colours in [-1, 1].

        Returns:
            (N, 3, S / 2, S / 2) float32 logits, and (N, 3) float32 of the IoU to be expected.
        """
        logits, quality = self._session.run(None, {"crops": crops})
        return logits, quality
