"""Models and processors from folders as `save_pretrained` writes them, with errors that say what to do."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError
from torch import nn
from transformers import PreTrainedModel
from transformers.utils import logging

from cutout_server.errors import FailedPreconditionError
from cutout_server.models.checkpoint import check_device, differences, place
from cutout_server.types import ModelFiles

M = TypeVar("M", bound=PreTrainedModel)

# A server's stderr is its log; what is wrong with the files is told by our own errors.
logging.disable_progress_bar()  # type: ignore[no-untyped-call]


def folder_of(files: ModelFiles, model_types: Iterable[str]) -> Path:
    """The folder, once it is known to hold one of these kinds of model.

    Raises:
        FailedPreconditionError: It is none, or of another kind.
    """
    folder, expected = files.checkpoint, sorted(model_types)
    if folder is None or not folder.is_dir():
        raise FailedPreconditionError(
            f"checkpoint {folder} is not a folder: expected one with config.json and model.safetensors"
        )
    if files.config is not None:
        raise FailedPreconditionError(f"config must not be set: checkpoint {folder} brings its own config.json")
    try:
        found = json.loads((folder / "config.json").read_text("utf-8")).get("model_type")
    except (OSError, ValueError, AttributeError) as error:
        raise FailedPreconditionError(
            f"checkpoint {folder} has no readable config.json: download the whole folder"
        ) from error
    if found not in expected:
        raise FailedPreconditionError(
            f"checkpoint {folder} is of model_type {found!r}; expected {' or '.join(map(repr, expected))}"
        )
    return folder


def load_model(kind: type[M], folder: Path, device: str, *, optional: Iterable[str] = (), **options: Any) -> M:
    """The model in eval mode on its device, float32 unless `options` hold a dtype. Nothing is fetched or unpickled.

    Args:
        kind: Its class.
        folder: From `folder_of`.
        device: "cpu", "cuda:0" ...
        optional: Prefixes of names that the files may lack or have too many of.
        options: Further arguments of `from_pretrained`.

    Raises:
        FailedPreconditionError: The files are missing, damaged or of another architecture, or there is no such device.
    """
    where = check_device(device)
    try:
        loaded: Any = kind.from_pretrained(
            folder,
            **{"dtype": torch.float32, **options},
            local_files_only=True,
            use_safetensors=True,
            ignore_mismatched_sizes=True,  # They are in the report; transformers' own error is a page of text.
            output_loading_info=True,
        )
    except MemoryError:
        raise
    except SafetensorError as error:
        raise FailedPreconditionError(
            f"checkpoint {folder} is damaged: download it again, and compare its checksum"
        ) from error
    except Exception as error:  # a config of nonsense makes the constructors raise almost anything
        raise FailedPreconditionError(
            f"checkpoint {folder} cannot be loaded: {' '.join(str(error).split())[:300]}"
        ) from error
    model, report = loaded
    faults = differences(
        missing=_without(report["missing_keys"], optional),
        unexpected=_without(report["unexpected_keys"], optional),
        other_shape=(key for key, *_ in report["mismatched_keys"]),
    )
    if faults:
        raise FailedPreconditionError(
            f"checkpoint {folder} does not fit its config.json ({faults}): download the whole folder again"
        )
    moved: nn.Module = place(model.eval().requires_grad_(requires_grad=False), where)
    assert isinstance(moved, kind)  # noqa: S101 - `to` returns the module itself
    return moved


def load_processor(kind: Any, folder: Path, **options: Any) -> Any:
    """A tokenizer or processor of this class.

    Raises:
        FailedPreconditionError: Its files are missing or damaged.
    """
    try:
        return kind.from_pretrained(folder, local_files_only=True, trust_remote_code=False, **options)
    except Exception as error:  # its files are JSON of any content
        raise FailedPreconditionError(
            f"checkpoint {folder} has no readable {kind.__name__}: {' '.join(str(error).split())[:300]}; "
            "download the whole folder"
        ) from error


def nbytes(model: nn.Module) -> int:
    """Memory of the weights, in bytes."""
    return sum(tensor.nbytes for tensor in (*model.parameters(), *model.buffers()))


def _without(keys: Iterable[str], prefixes: Iterable[str]) -> list[str]:
    return [key for key in keys if not key.startswith(tuple(prefixes))]
