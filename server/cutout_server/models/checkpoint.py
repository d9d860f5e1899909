"""Weights from a file to a device, with errors that say what to do."""

import zipfile
from collections.abc import Iterable
from pathlib import Path

import torch
from torch import nn

from cutout_server.errors import FailedPreconditionError

Weights = dict[str, torch.Tensor]

_NAMED = 3  # How many keys an error names.


def read(checkpoint: Path | None) -> Weights:
    """Reads `{"model": state_dict}`, or a bare state dict, to the CPU. Only tensors are unpickled, never code.

    Raises:
        FailedPreconditionError: There is no such file, or it is not a PyTorch checkpoint.
    """
    if checkpoint is None:
        raise FailedPreconditionError("checkpoint is not set: name a file such as sam2.1_hiera_tiny.pt")
    if not checkpoint.is_file():
        raise FailedPreconditionError(f"checkpoint {checkpoint} is not a file: download it, or correct the path")
    try:
        with checkpoint.open("rb") as file:
            head = file.read(64)
    except OSError as error:
        raise FailedPreconditionError(f"checkpoint {checkpoint} cannot be read: {error.strerror}") from error
    _refuse_text(checkpoint, head)
    _refuse_inflated(checkpoint)
    try:
        content = torch.load(checkpoint, map_location="cpu", weights_only=True)
    except MemoryError:
        raise
    except Exception as error:  # a damaged archive makes the reader raise almost anything
        raise FailedPreconditionError(
            f"checkpoint {checkpoint} is damaged, or holds more than tensors, which is never run: "
            "download an official one again, and compare its checksum"
        ) from error
    weights = content.get("model", content) if isinstance(content, dict) else None
    if not isinstance(weights, dict) or not weights or not all(isinstance(v, torch.Tensor) for v in weights.values()):
        raise FailedPreconditionError(f'checkpoint {checkpoint} holds no tensors under "model": use an official one')
    return weights


def _refuse_text(checkpoint: Path, head: bytes) -> None:
    if not head:
        raise FailedPreconditionError(f"checkpoint {checkpoint} is empty: download it again")
    if head.startswith(b"version https://git-lfs"):
        raise FailedPreconditionError(f"checkpoint {checkpoint} is a Git LFS pointer: run `git lfs pull`")
    if head.lstrip().startswith(b"<"):
        raise FailedPreconditionError(
            f"checkpoint {checkpoint} is a web page: read what it says, and download the checkpoint again"
        )


def _refuse_inflated(checkpoint: Path) -> None:
    """torch.save stores its entries as they are: what is larger unpacked than packed was made to fill the memory."""
    try:
        with zipfile.ZipFile(checkpoint) as archive:
            unpacked = sum(entry.file_size for entry in archive.infolist())
    except (zipfile.BadZipFile, OSError):  # the format before PyTorch 1.6, or damaged
        return
    packed = checkpoint.stat().st_size
    if unpacked > packed:
        raise FailedPreconditionError(
            f"checkpoint {checkpoint} has {packed} bytes and would take {unpacked}, which torch.save never writes: "
            "download an official one, and compare its checksum"
        )


def fit(model: nn.Module, weights: Weights) -> None:
    """Copies the weights into the model.

    Raises:
        FailedPreconditionError: They are of another architecture.
    """
    expected = model.state_dict()
    faults = differences(
        missing=expected.keys() - weights.keys(),
        unexpected=weights.keys() - expected.keys(),
        other_shape=(k for k in expected.keys() & weights.keys() if expected[k].shape != weights[k].shape),
    )
    if faults:
        raise FailedPreconditionError(
            f"the checkpoint is of another architecture than config ({faults}): "
            "set config to the checkpoint's own, or leave it out if the checkpoint is an official one"
        )
    model.load_state_dict(weights)


def differences(**keys: Iterable[str]) -> str:
    """What keeps weights from fitting a model, for an error; empty when nothing does."""
    some = ((what.replace("_", " "), _some(names)) for what, names in keys.items())
    return "; ".join(f"{what} {names}" for what, names in some if names)


def _some(keys: Iterable[str]) -> str:
    keys = sorted(keys)
    more = len(keys) - _NAMED
    return ", ".join(keys[:_NAMED]) + (f" and {more} more" if more > 0 else "")


def check_device(device: str) -> torch.device:
    """Makes sure that there is such a device: a model must never run elsewhere than it was told.

    Raises:
        FailedPreconditionError: There is none.
    """
    have = ["cpu", *(f"cuda:{i}" for i in range(torch.cuda.device_count()))]
    have += ["mps"] if torch.backends.mps.is_available() else []
    if device not in have and not (device == "cuda" and "cuda:0" in have):
        hint = "; for CUDA, install a CUDA build of PyTorch and its driver" if device.startswith("cuda") else ""
        raise FailedPreconditionError(f"there is no device {device}: this machine has {', '.join(have)}{hint}")
    return torch.device(device)


def place(model: nn.Module, device: torch.device) -> nn.Module:
    """Moves the model.

    Raises:
        FailedPreconditionError: The device's memory does not hold it.
    """
    try:
        return model.to(device)
    except torch.OutOfMemoryError as error:
        raise FailedPreconditionError(
            f"device {device} has too little free memory for the model: unload another one, or choose a smaller one"
        ) from error
