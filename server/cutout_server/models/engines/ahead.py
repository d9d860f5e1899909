"""PyTorch compiled ahead of time by AOTInductor: nothing is compiled at a request."""

import hashlib
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch._inductor import aoti_compile_and_package, aoti_load_package

from cutout_server.models.engines.eager import DTYPES
from cutout_server.models.engines.exports import Identity, digest_of, drop, ensure
from cutout_server.models.runtime import Runtime

_PACKAGE = "encoder.pt2"


class Ahead:
    """A compiled module for one picture at a time."""

    batches = False

    def __init__(self, package: Any, dtype: torch.dtype, nbytes: int) -> None:
        self._package = package
        self._dtype = dtype
        self.nbytes = nbytes

    def __call__(self, pixels: Tensor) -> tuple[Tensor, ...]:
        """See `Encoder`."""
        return tuple(each.float() for each in self._package(pixels.to(self._dtype)))


def _cpu() -> str:
    """Its name, and a digest of what its instructions can do."""
    capabilities = torch.cpu.get_capabilities()
    digest = hashlib.sha256(repr(sorted(capabilities.items())).encode()).hexdigest()[:8]
    return f"{capabilities.get('cpu_name', 'CPU')} {digest}"


def prepare(module: nn.Module, example: Tensor, runtime: Runtime) -> Ahead:
    """See `engines.prepare`."""
    dtype = DTYPES[runtime.precision]
    # A package holds code for this very kind of device.
    kind = torch.cuda.get_device_name(example.device) if example.is_cuda else _cpu()
    identity = Identity(
        digest_of(module),
        f"compile {runtime.precision.value} {kind}",
        f"torch {torch.__version__}",
        tuple(example.shape),
    )
    module = module.to(dtype)

    def export(folder: Path) -> None:
        with torch.no_grad():
            program = torch.export.export(module, (example.to(dtype),))
            aoti_compile_and_package(program, package_path=str(folder / _PACKAGE))

    folder, scratch = ensure(runtime.exports, identity, export, may_export=runtime.may_export)
    nbytes = sum(tensor.nbytes for tensor in (*module.parameters(), *module.buffers()))
    drop(module)
    package = aoti_load_package(str(folder / _PACKAGE))
    if scratch:
        scratch.cleanup()
    return Ahead(package, dtype, nbytes)
