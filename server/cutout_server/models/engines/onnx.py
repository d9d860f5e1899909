"""ONNX Runtime on the CPU."""

from pathlib import Path

import onnxruntime
import torch
from torch import Tensor, nn

from cutout_server.models.engines.exports import Identity, digest_of, drop, ensure
from cutout_server.models.runtime import Precision, Runtime

_MODEL = "encoder.onnx"


class Onnx:
    """A session for one picture at a time."""

    batches = False

    def __init__(self, session: onnxruntime.InferenceSession, nbytes: int) -> None:
        self._session = session
        self._input = session.get_inputs()[0].name
        self.nbytes = nbytes

    def __call__(self, pixels: Tensor) -> tuple[Tensor, ...]:
        """See `Encoder`."""
        return tuple(torch.from_numpy(each) for each in self._session.run(None, {self._input: pixels.numpy()}))


def prepare(module: nn.Module, example: Tensor, runtime: Runtime) -> Onnx:
    """See `engines.prepare`. With int8, the weights of matrix products are quantised, and their inputs as they come."""
    identity = Identity(
        digest_of(module),
        f"onnx {runtime.precision.value}",
        f"onnxruntime {onnxruntime.__version__} torch {torch.__version__}",
        tuple(example.shape),
    )

    def export(folder: Path) -> None:
        target = folder / _MODEL
        with torch.no_grad():
            # Constants of over 2 GB would need a second file.
            torch.onnx.export(module, (example,), str(target), dynamo=True, external_data=False, verbose=False)
        if runtime.precision is Precision.INT8:
            from onnxruntime.quantization import quantize_dynamic  # noqa: PLC0415 - needs `onnx`, and only here

            quantize_dynamic(target, folder / "int8.onnx", op_types_to_quantize=["MatMul", "Gemm"])
            (folder / "int8.onnx").replace(target)

    folder, scratch = ensure(runtime.exports, identity, export, may_export=runtime.may_export)
    drop(module)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(str(folder / _MODEL), options, providers=["CPUExecutionProvider"])
    nbytes = (folder / _MODEL).stat().st_size
    if scratch:
        scratch.cleanup()
    return Onnx(session, nbytes)
