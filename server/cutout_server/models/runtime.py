"""Which engine runs an encoder, and in which precision."""

from dataclasses import dataclass
from enum import StrEnum
from importlib.util import find_spec
from pathlib import Path

from cutout_common.distribution import install_hint

from cutout_server.errors import FailedPreconditionError


class Engine(StrEnum):
    """What runs an encoder."""

    AUTO = "auto"
    EAGER = "eager"
    COMPILE = "compile"
    OPENVINO = "openvino"
    ONNX = "onnx"


class Precision(StrEnum):
    """What an encoder computes in; its inputs and outputs are float32."""

    AUTO = "auto"
    FP32 = "fp32"
    BF16 = "bf16"
    FP16 = "fp16"
    INT8 = "int8"


# Precisions that each engine has, the one that `auto` takes where the device is no better first.
PRECISIONS: dict[Engine, tuple[Precision, ...]] = {
    Engine.EAGER: (Precision.FP32, Precision.BF16, Precision.FP16),
    Engine.COMPILE: (Precision.FP32, Precision.BF16, Precision.FP16),
    Engine.OPENVINO: (Precision.FP32, Precision.BF16),
    Engine.ONNX: (Precision.FP32, Precision.INT8),
}
_PACKAGES = {Engine.OPENVINO: "openvino", Engine.ONNX: "onnxruntime"}
_ALL = frozenset(Engine) - {Engine.AUTO}


@dataclass(frozen=True)
class Runtime:
    """How to run an encoder.

    Attributes:
        engine: Never `auto`.
        precision: Never `auto`.
        exports: Folder of the models that engines made of checkpoints; None keeps none.
        may_export: Whether one that is missing may be made now, which takes up to minutes.
        bf16_decoder: Whether the mask decoders of SAM 1 and 2 compute in bf16, too.
    """

    engine: Engine = Engine.EAGER
    precision: Precision = Precision.FP32
    exports: Path | None = None
    may_export: bool = True
    bf16_decoder: bool = False

    @property
    def exact(self) -> bool:
        """Whether answers are wanted as the references compute them, rounding for rounding."""
        return self.engine is Engine.EAGER and self.precision is Precision.FP32


EXACT = Runtime()


def check(engine: Engine, precision: Precision, able: frozenset[Engine] = _ALL) -> None:
    """Makes sure that settings fit together, and a model that has these engines.

    Raises:
        ValueError: They do not.
    """
    if engine is not Engine.AUTO and engine not in able:
        raise ValueError(f"engine: expected one of {_listed(able)}, got {engine.value}")
    known = [each for each in able if engine in (Engine.AUTO, each)]
    if precision is not Precision.AUTO and not any(precision in PRECISIONS[each] for each in known):
        precisions = [each.value for each in Precision if any(each in PRECISIONS[one] for one in known)]
        raise ValueError(f"precision: with engine {engine.value}, expected one of {precisions}, got {precision.value}")


def choose(
    engine: Engine, precision: Precision, able: frozenset[Engine], device: str, *, bf16_needs_amx: bool = False
) -> tuple[Engine, Precision]:
    """Settles what settings leave to `auto`: the fastest that this device and this installation have.

    Args:
        engine: As set.
        precision: As set.
        able: The engines that the model has.
        device: "cpu", "cuda:0" ...
        bf16_needs_amx: See `Family`.

    Raises:
        FailedPreconditionError: The engine's package is not installed, or it does not run on the device.
    """
    check(engine, precision, able)
    on_cpu = device == "cpu"
    best = _best(device, bf16_needs_amx=bf16_needs_amx)
    if engine is Engine.AUTO:
        candidates = [Engine.OPENVINO, Engine.EAGER, Engine.COMPILE, Engine.ONNX] if on_cpu else [Engine.EAGER]
        wanted = best if precision is Precision.AUTO else precision
        usable = [candidate for candidate in candidates if candidate in able and _installed(candidate)]
        engine = next((each for each in usable if wanted in PRECISIONS[each]), usable[0] if usable else Engine.EAGER)
    elif engine in _PACKAGES and not on_cpu:
        raise FailedPreconditionError(
            f"engine {engine.value} runs on the CPU only, not on {device}: use eager or compile"
        )
    elif not _installed(engine):
        raise FailedPreconditionError(
            f"engine {engine.value} needs the package {_PACKAGES[engine]!r}: {install_hint(engine.value)}",
            reason="PACKAGE_MISSING",
        )
    if precision is Precision.AUTO:
        precision = best if best in PRECISIONS[engine] else Precision.FP32
    return engine, precision


def _best(device: str, *, bf16_needs_amx: bool) -> Precision:
    """The fastest precision that keeps masks equal: bf16 wherever the hardware multiplies in it."""
    import torch  # noqa: PLC0415 - settings are read without it

    if device.startswith("cuda"):
        # Before compute capability 8.0 bf16 is emulated, and fp16 is not.
        return Precision.BF16 if torch.cuda.get_device_capability(device) >= (8, 0) else Precision.FP16
    if device != "cpu":
        return Precision.FP32
    amx, avx512 = torch.cpu._is_amx_tile_supported(), torch.cpu._is_avx512_bf16_supported()  # noqa: SLF001
    return Precision.BF16 if amx or (avx512 and not bf16_needs_amx) else Precision.FP32


def _installed(engine: Engine) -> bool:
    return engine not in _PACKAGES or find_spec(_PACKAGES[engine]) is not None


def _listed(engines: frozenset[Engine]) -> list[str]:
    return [each.value for each in Engine if each in engines or each is Engine.AUTO]
