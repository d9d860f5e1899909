"""PyTorch as it is."""

import torch
from torch import Tensor, nn

from cutout_server.models.runtime import Precision, Runtime

DTYPES = {Precision.FP32: torch.float32, Precision.BF16: torch.bfloat16, Precision.FP16: torch.float16}


class Eager:
    """A module whose weights are of one dtype."""

    batches = True

    def __init__(self, module: nn.Module, dtype: torch.dtype) -> None:
        # Converted once: autocast would convert them anew at each call.
        self._module = module.to(dtype)
        self._dtype = dtype

    @property
    def nbytes(self) -> int:
        """Memory of the weights, in bytes."""
        return sum(tensor.nbytes for tensor in (*self._module.parameters(), *self._module.buffers()))

    def __call__(self, pixels: Tensor) -> tuple[Tensor, ...]:
        """See `Encoder`."""
        return tuple(each.float() for each in self._module(pixels.to(self._dtype)))


def prepare(module: nn.Module, _example: Tensor, runtime: Runtime) -> Eager:
    """See `engines.prepare`."""
    return Eager(module, DTYPES[runtime.precision])
