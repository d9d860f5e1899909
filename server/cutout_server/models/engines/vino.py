"""OpenVINO on the CPU."""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from cutout_server.models.engines.exports import Identity, digest_of, drop, ensure
from cutout_server.models.runtime import Precision, Runtime

_COMPILED = "encoder.blob"
_HINTS = {Precision.FP32: "f32", Precision.BF16: "bf16"}


class Vino:
    """A compiled model for one picture at a time."""

    batches = False

    def __init__(self, compiled: Any, blob: Any) -> None:
        self._request = compiled.create_infer_request()
        self._blob = blob  # Which the compiled model may refer to.
        self.nbytes: int = blob.byte_size

    def __call__(self, pixels: Tensor) -> tuple[Tensor, ...]:
        """See `Encoder`."""
        answers = self._request.infer([pixels.numpy()], share_inputs=True)
        return tuple(torch.from_numpy(each) for each in answers.to_tuple())


def _openvino() -> Any:
    """The package, which reports what its converter is used for to its makers unless another package is missing."""
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]  # so that importing it fails
    import openvino  # noqa: PLC0415 - after that

    return openvino


def prepare(module: nn.Module, example: Tensor, runtime: Runtime) -> Vino:
    """See `engines.prepare`.

    What is kept is the compiled model with its weights laid out for this CPU: loading it takes a second.
    """
    openvino = _openvino()
    core = openvino.Core()
    cpu = core.get_property("CPU", "FULL_DEVICE_NAME")
    identity = Identity(
        digest_of(module),
        f"openvino {runtime.precision.value} {cpu}",
        f"openvino {openvino.__version__} torch {torch.__version__}",
        tuple(example.shape),
    )
    options = {
        "INFERENCE_PRECISION_HINT": _HINTS[runtime.precision],
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        # Its fused attention rounds more to bf16 than its operations one by one: twice the error, in the same time.
        "SNIPPETS_MODE": "DISABLE",
    }

    def export(folder: Path) -> None:
        with torch.no_grad():
            model = openvino.convert_model(module, example_input=example, input=[tuple(example.shape)])
        compiled = core.compile_model(model, "CPU", options)
        (folder / _COMPILED).write_bytes(compiled.export_model().getvalue())

    folder, scratch = ensure(runtime.exports, identity, export, may_export=runtime.may_export)
    drop(module)
    # Mapped, for itself, which spares a copy.
    mapped = np.memmap(folder / _COMPILED, np.uint8, "c")
    blob = openvino.Tensor(mapped, shared_memory=True)
    compiled = core.import_model(blob, "CPU", options)
    if scratch:
        scratch.cleanup()
    return Vino(compiled, blob)
