"""Engines run an encoder: PyTorch as it is or compiled ahead, OpenVINO, ONNX Runtime.

An encoder is a module that takes (B, 3, S, S) float32 pixels and gives a tuple of float32 tensors. It has no control
flow that depends on data, computes in the dtype of its own weights, and is in eval mode. `prepare` takes it over: its
weights may be converted in place, or dropped when the engine has a copy of its own.
"""

from collections.abc import Callable
from importlib import import_module
from typing import Protocol

from torch import Tensor, nn

from cutout_server.models.runtime import EXACT, Engine, Precision, Runtime

__all__ = ["EXACT", "Encoder", "Engine", "Precision", "Runtime", "prepare"]


class Encoder(Protocol):
    """A module in the hands of an engine. Called from one thread at a time."""

    @property
    def nbytes(self) -> int:
        """Memory of the weights, in bytes."""
        ...

    @property
    def batches(self) -> bool:
        """Whether it takes other batches than of one picture."""
        ...

    def __call__(self, pixels: Tensor) -> tuple[Tensor, ...]:
        """(B, 3, S, S) float32 on the module's device to float32 tensors there, their first dimension B."""
        ...


Prepare = Callable[[nn.Module, Tensor, Runtime], Encoder]


def prepare(module: nn.Module, example: Tensor, runtime: Runtime) -> Encoder:
    """Gives an encoder to an engine.

    Args:
        module: In eval mode, in float32, on its device. Not to be used afterwards.
        example: (1, 3, S, S) float32 pixels on that device.
        runtime: The engine and its precision.

    Raises:
        FailedPreconditionError: The export that the engine needs is missing and may not be made, or is not this one's.
    """
    # Each engine is imported when it is wanted: their packages are extras.
    module_of = {Engine.EAGER: "eager", Engine.COMPILE: "ahead", Engine.OPENVINO: "vino", Engine.ONNX: "onnx"}
    chosen: Prepare = import_module(f"{__name__}.{module_of[runtime.engine]}").prepare
    return chosen(module, example, runtime)
