"""Where the models lie that engines made of checkpoints, and how they are told to be the right ones."""

import hashlib
import inspect
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory, mkdtemp

import structlog
import torch
from cutout_common import disks
from cutout_common.heap import trim
from filelock import FileLock
from torch import nn

from cutout_server.errors import FailedPreconditionError

log = structlog.get_logger()

_MANIFEST = "manifest.json"
_LEAST_FREE_BYTES = 64 * 1024


@dataclass(frozen=True)
class Identity:
    """What an export was made of, and with what: it serves nothing else.

    Attributes:
        weights_sha256: Of the encoder's tensors with their names, of its form, and of what computes with them.
        engine: And its options, as the exporter writes them.
        versions: Of the packages that had a hand in it.
        input_shape: Of the pixels.
    """

    weights_sha256: str
    engine: str
    versions: str
    input_shape: tuple[int, ...]

    @property
    def digest(self) -> str:
        """A name for it."""
        return hashlib.sha256(self.json.encode()).hexdigest()[:32]

    @property
    def json(self) -> str:
        """All of it."""
        return json.dumps(self.__dict__ | {"input_shape": list(self.input_shape)}, sort_keys=True)


def digest_of(module: nn.Module) -> str:
    """sha256 of a module's tensors with their names, dtypes and shapes, of how it is put together, and of its code."""
    digest = hashlib.sha256(repr(module).encode())
    # That of torch has a version, which is part of an identity.
    classes = {type(each) for each in module.modules() if not type(each).__module__.startswith("torch.")}
    for source in sorted(Path(file).read_bytes() for file in {inspect.getfile(kind) for kind in classes}):
        digest.update(source)
    for name, tensor in sorted([*module.named_parameters(), *module.named_buffers()]):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def drop(module: nn.Module) -> None:
    """Gives back the memory of weights that an export has as well, before it is loaded: an engine takes memory anew."""
    module.to("meta")
    trim()


def ensure(
    exports: Path | None, identity: Identity, export: Callable[[Path], None], *, may_export: bool
) -> tuple[Path, TemporaryDirectory[str] | None]:
    """The folder of an export, made if it is missing.

    Args:
        exports: Where exports are kept; None makes one that lives as long as the second answer.
        identity: Of the one that is wanted.
        export: Writes its files into a folder.
        may_export: Whether a missing one may be made.

    Raises:
        FailedPreconditionError: There is none and none may be made, or the one that is there was tampered with.
    """
    if exports is None:
        scratch = TemporaryDirectory(prefix="cutout-export-")
        export(Path(scratch.name))
        return Path(scratch.name), scratch
    folder = exports / identity.digest
    exports.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{folder}.lock"):
        if not folder.is_dir():
            if not may_export:
                raise FailedPreconditionError(
                    f"no export of these weights for {identity.engine} lies in {exports}: run `cutout models export`",
                    reason="EXPORT_MISSING",
                )
            _make(folder, identity, export)
    _check(folder, identity)
    return folder, None


def _make(folder: Path, identity: Identity, export: Callable[[Path], None]) -> None:
    log.info("exporting", engine=identity.engine, folder=str(folder))
    unfinished = Path(mkdtemp(prefix=f"{folder.name}-", dir=folder.parent))
    try:
        export(unfinished)
        files = {path.name: _sha256(path) for path in unfinished.iterdir() if path.is_file()}
        manifest = {"identity": json.loads(identity.json), "files": files}
        (unfinished / _MANIFEST).write_text(json.dumps(manifest, indent=2))
        unfinished.rename(folder)
    except Exception as error:  # engines raise what they like
        # Those that write by themselves do not say why they could not.
        if disks.is_full(error) or shutil.disk_usage(unfinished).free < _LEAST_FREE_BYTES:
            message = f"an export does not fit: {disks.room(folder)}; make room, or set weights_dir to a larger one"
            raise FailedPreconditionError(message, reason="DISK_FULL") from error
        raise
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def _check(folder: Path, identity: Identity) -> None:
    try:
        manifest = json.loads((folder / _MANIFEST).read_text())
        sound = manifest["identity"] == json.loads(identity.json) and all(
            _sha256(folder / name) == sha256 for name, sha256 in manifest["files"].items()
        )
    except (OSError, ValueError, KeyError, TypeError):
        sound = False
    if not sound:
        raise FailedPreconditionError(
            f"the export in {folder} is damaged, or of another checkpoint than its name says: delete the folder, "
            "and run `cutout models export`",
            reason="EXPORT_MISMATCH",
        )


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
