"""Which Grounding DINO it is: the package's two configs, or a file in their layout, which is read and never run."""

import ast
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

from cutout_server.errors import FailedPreconditionError
from cutout_server.models.checkpoint import Weights
from cutout_server.models.grounding_dino_official.package import GroundingDINO_SwinB_cfg, GroundingDINO_SwinT_OGC

# Others of the package would fetch weights.
_BACKBONES = ("swin_T_224_1k", "swin_B_224_22k", "swin_B_384_22k", "swin_L_224_22k", "swin_L_384_22k")
_WIDTHS = {96: GroundingDINO_SwinT_OGC, 128: GroundingDINO_SwinB_cfg}  # Channels of the backbone's first stage.
_LARGEST = 1 << 20  # Bytes of a config.
# They spare memory in training alone.
_FOR_INFERENCE = {"use_checkpoint": False, "use_transformer_ckpt": False}


def guess(weights: Weights) -> SimpleNamespace:
    """The config of an official checkpoint.

    Raises:
        FailedPreconditionError: It is none.
    """
    patches = weights.get("backbone.0.patch_embed.proj.weight")
    config = None if patches is None else _WIDTHS.get(patches.shape[0])
    if config is None:
        raise FailedPreconditionError(
            "the checkpoint is not one of the official ones, groundingdino_swint_ogc.pth and "
            "groundingdino_swinb_cogcoor.pth: set config to the file that describes it"
        )
    return SimpleNamespace(**_values(config) | _FOR_INFERENCE)


def read_config(path: Path) -> SimpleNamespace:
    """A file of `name = value` lines, as GroundingDINO_SwinT_OGC.py. Values are literals: nothing is run.

    Raises:
        FailedPreconditionError: There is no such file, or it is something else.
    """
    try:
        if path.stat().st_size > _LARGEST:
            raise ValueError("it is too large")
        lines = ast.parse(path.read_text("utf-8")).body
        values = dict(_assignment(line) for line in lines)
    except OSError as error:
        raise FailedPreconditionError(f"config {path} cannot be read: {error.strerror}") from error
    except (ValueError, SyntaxError, RecursionError, MemoryError) as error:
        raise FailedPreconditionError(
            f"config {path} is not read, since it is never run: expected lines of `name = value` with plain values, "
            f"as in GroundingDINO_SwinT_OGC.py ({error})"
        ) from error
    expected = _values(GroundingDINO_SwinT_OGC).keys()
    if values.keys() != expected:
        raise FailedPreconditionError(
            f"config {path} lacks {sorted(expected - values.keys())} and has {sorted(values.keys() - expected)} that "
            "the package does not know: expected the names of GroundingDINO_SwinT_OGC.py"
        )
    if values["backbone"] not in _BACKBONES:
        raise FailedPreconditionError(f"config {path}: expected a backbone of {', '.join(_BACKBONES)}")
    return SimpleNamespace(**values | _FOR_INFERENCE)


def _values(module: ModuleType) -> dict[str, Any]:
    return {name: value for name, value in vars(module).items() if not name.startswith("__")}


def _assignment(line: ast.stmt) -> tuple[str, Any]:
    match line:
        case ast.Assign(targets=[ast.Name(id=name)], value=value):
            return name, ast.literal_eval(value)
    raise ValueError(f"line {line.lineno} is something else")
