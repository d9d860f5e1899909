"""Where weights come from: a path, the cache, or a download; never from a request.

Downloads are resumed, checked, and put into place at once; two processes do not fetch the same thing twice.
"""

import hashlib
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import structlog
from cutout_common import disks

from cutout_server import web_files
from cutout_server.errors import FailedPreconditionError
from cutout_server.types import ModelFiles
from cutout_server.zoo import HubFile, HubFolder, Source, WebFile

log = structlog.get_logger()

# The same weights in other precisions and formats, and parts that are never loaded.
_IGNORED = ("*.fp16.*", "*non_ema*", "*pruned*", "original/*", "onnx/*", "openvino/*", "safety_checker/*", "vae_*/*")
_HASH_CHUNK = 1 << 20


def parse(text: str) -> Source | Path:
    """What a setting names: a path, `hub:owner/name[/file][@revision]`, or an http(s) address with `#sha256=...`.

    Raises:
        ValueError: It is an address without a checksum, or no repository.
    """
    if text.startswith("hub:"):
        match = re.fullmatch(r"([\w.-]+/[\w.-]+)(?:/([^@]+))?(?:@([\w./-]+))?", text.removeprefix("hub:"))
        if match is None:
            raise ValueError(f"expected hub:owner/name, hub:owner/name/file or either with @revision, got {text!r}")
        repo, file, revision = match[1], match[2], match[3] or "main"
        return HubFile(repo, file, revision=revision) if file else HubFolder(repo, revision=revision)
    if text.startswith(("http://", "https://")):
        url, _, fragment = text.partition("#")
        checksum = re.fullmatch(r"sha256=([0-9a-fA-F]{64})", fragment)
        if checksum is None:
            raise ValueError(f"expected #sha256= and 64 hexadecimal digits after the address, got {text!r}")
        return WebFile(url, checksum[1].lower())
    return Path(text)


@dataclass(frozen=True)
class Wanted:
    """What a model is to be made of, wherever it lies.

    Attributes:
        model: The model's name, for errors.
        checkpoint: See ModelFiles, here and below.
        gated_page: Where the publisher wants the licence accepted; empty when it does not.
    """

    model: str
    checkpoint: Source | Path | None
    config: str | None
    companions: Mapping[str, Source | Path]
    gated_page: str = ""

    @property
    def sources(self) -> tuple[Source, ...]:
        """What may have to be downloaded."""
        return tuple(each for each in (self.checkpoint, *self.companions.values()) if isinstance(each, Source))


class Weights:
    """The cache and the ways into it.

    Args:
        folder: Where downloads are kept.
        offline: Nothing is fetched; what is there already is used.
        token: For gated repositories; empty takes what `hf auth login` or HF_TOKEN left.
        endpoint: Of the model hub; empty is the official one, or HF_ENDPOINT.
        progress: Draw progress bars on stderr.
    """

    def __init__(
        self, folder: Path, *, offline: bool = False, token: str = "", endpoint: str = "", progress: bool = False
    ) -> None:
        self.folder = folder.expanduser()
        self._offline = offline or os.environ.get("HF_HUB_OFFLINE", "").upper() in {"1", "TRUE", "YES", "ON"}
        self._token = token or None
        self._endpoint = endpoint or None
        self._progress = progress

    def files(self, wanted: Wanted) -> ModelFiles:
        """Everything on this machine; nothing is fetched.

        Raises:
            FailedPreconditionError: Something of it was not downloaded yet.
        """
        return self._each(wanted, self._present)

    def fetch(self, wanted: Wanted) -> ModelFiles:
        """Everything on this machine, downloaded as far as it is not there. Takes minutes.

        Raises:
            FailedPreconditionError: It cannot be had; the text says what to do.
        """
        return self._each(wanted, self._fetched)

    def has(self, wanted: Wanted) -> bool:
        """Whether everything lies on this machine."""
        return all(self._find(source) is not None for source in wanted.sources)

    def _each(self, wanted: Wanted, get: Callable[[Wanted, Source], Path]) -> ModelFiles:
        def local(source: Source | Path) -> Path:
            return source if isinstance(source, Path) else get(wanted, source)

        return ModelFiles(
            None if wanted.checkpoint is None else local(wanted.checkpoint),
            wanted.config,
            {name: local(source) for name, source in wanted.companions.items()},
        )

    def _present(self, wanted: Wanted, source: Source) -> Path:
        found = self._find(source)
        if found is None:
            what = f"{_name(source)} was not downloaded yet: run `cutout models pull {wanted.model}`"
            raise FailedPreconditionError(f"model {wanted.model!r}: {what}", reason="WEIGHTS_MISSING")
        return found

    def _fetched(self, wanted: Wanted, source: Source) -> Path:
        found = self._find(source)
        if found is not None:
            return found
        if self._offline:
            raise FailedPreconditionError(
                f"model {wanted.model!r}: {_name(source)} is not in {self.folder}, and offline is set: copy it there, "
                "or go online once",
                reason="WEIGHTS_MISSING",
            )
        log.info("downloading", model=wanted.model, source=_name(source), bytes=source.size_bytes or None)
        with self._explained(wanted, source):
            self.folder.mkdir(parents=True, exist_ok=True)
            self._check_room(source)
            if isinstance(source, WebFile):
                path = web_files.fetch(source.url, source.sha256, self._web_path(source), progress=self._progress)
            else:
                path = self._from_hub(source, local_files_only=False)
                if isinstance(source, HubFile) and source.sha256:
                    _check_sum(path, source.sha256)
        log.info("downloaded", model=wanted.model, path=str(path))
        return path

    def _find(self, source: Source) -> Path | None:
        """Where it lies, whole; None when it does not."""
        if isinstance(source, WebFile):
            path = self._web_path(source)
            return path if path.is_file() else None
        from huggingface_hub.errors import LocalEntryNotFoundError  # noqa: PLC0415 - half a second

        try:
            return self._from_hub(source, local_files_only=True)
        except LocalEntryNotFoundError:
            return None

    def _web_path(self, source: WebFile) -> Path:
        return self.folder / "web" / source.sha256[:16] / Path(urlsplit(source.url).path).name

    def _from_hub(self, source: HubFile | HubFolder, *, local_files_only: bool) -> Path:
        from huggingface_hub import hf_hub_download, snapshot_download  # noqa: PLC0415 - half a second
        from huggingface_hub.errors import LocalEntryNotFoundError  # noqa: PLC0415
        from huggingface_hub.utils.tqdm import disable_progress_bars, enable_progress_bars  # noqa: PLC0415

        (enable_progress_bars if self._progress else disable_progress_bars)()
        common: dict[str, Any] = {
            "revision": source.revision,
            "cache_dir": self.folder / "hub",
            "token": self._token,
            "endpoint": self._endpoint,
            "local_files_only": local_files_only,
        }
        if isinstance(source, HubFile):
            kind = "space" if source.repo.startswith("spaces/") else "model"
            return Path(hf_hub_download(source.repo.removeprefix("spaces/"), source.file, repo_type=kind, **common))
        common |= {"allow_patterns": list(source.patterns), "ignore_patterns": list(_IGNORED)}
        folder = Path(snapshot_download(source.repo, **common))
        # A snapshot that was broken off is found too; the mark is set once all of it is there.
        mark = folder.parent / f".{folder.name}.whole"
        if local_files_only and not mark.is_file():
            raise LocalEntryNotFoundError(f"{source.repo} was not downloaded to its end")
        mark.touch()
        return folder

    def _check_room(self, source: Source) -> None:
        free = shutil.disk_usage(self.folder).free
        if source.size_bytes > free:
            what = f"{_name(source)} takes {source.size_bytes} bytes, and {self.folder} has {free} free"
            raise FailedPreconditionError(f"{what}: make room, or set weights_dir to a larger disk", reason="DISK_FULL")

    @contextmanager
    def _explained(self, wanted: Wanted, source: Source) -> Iterator[None]:
        """Turns what goes wrong on the way into an error that says what to do."""
        try:
            yield
        except FailedPreconditionError as error:
            raise FailedPreconditionError(f"model {wanted.model!r}: {error.message}", reason=error.reason) from error
        except Exception as error:
            what, reason = _advice(error, wanted, source, self.folder)
            raise FailedPreconditionError(f"model {wanted.model!r}: {what}", reason=reason) from error


def _advice(error: Exception, wanted: Wanted, source: Source, folder: Path) -> tuple[str, str]:
    """What is wrong and what to do about it, and the reason for programs."""
    from huggingface_hub import errors as hub  # noqa: PLC0415 - half a second

    reason = "DOWNLOAD_FAILED"
    what = (
        f"cannot be downloaded ({type(error).__name__}): check the network and proxy, and start again, what is there "
    )
    what += "is kept; or copy the files here and name their path as checkpoint"
    if isinstance(error, hub.GatedRepoError):
        page = wanted.gated_page or "its page"
        what, reason = f"is gated: accept its licence at {page}, and set hub_token (or HF_TOKEN)", "GATED"
    elif isinstance(error, hub.RepositoryNotFoundError):
        what, reason = "does not exist, or is private: correct the name, or set hub_token (or HF_TOKEN)", "NOT_FOUND"
    elif isinstance(error, hub.RemoteEntryNotFoundError | hub.RevisionNotFoundError | web_files.MissingError):
        what, reason = "is not there: correct the file's name or its revision", "NOT_FOUND"
    elif isinstance(error, web_files.ChecksumError):
        what, reason = (
            "has another checksum than expected, and was removed: try again, or correct it",
            "CHECKSUM_MISMATCH",
        )
    elif disks.is_full(error):
        what = f"does not fit: {disks.room(folder)}; make room, or set weights_dir to a larger one"
        reason = "DISK_FULL"
    elif isinstance(error, PermissionError):
        what, reason = f"cannot be written to {error.filename}: set weights_dir", "NOT_WRITABLE"
    return f"{_name(source)} {what}", reason


def _check_sum(path: Path, sha256: str) -> None:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_HASH_CHUNK):
            digest.update(chunk)
    if digest.hexdigest() != sha256:
        path.resolve().unlink()
        path.unlink(missing_ok=True)
        raise web_files.ChecksumError(path.name)


def _name(source: Source) -> str:
    match source:
        case WebFile():
            return source.url
        case HubFile():
            return f"hub:{source.repo}/{source.file}"
        case HubFolder():
            return f"hub:{source.repo}"


def size_bytes(files: ModelFiles) -> int:
    """Of the weights, which foretells the model's memory: files, and the safetensors of folders."""
    paths = [path for path in (files.checkpoint, *files.companions.values()) if path is not None]
    found = [file for path in paths for file in (path.rglob("*.safetensors") if path.is_dir() else [path])]
    return sum(file.stat().st_size for file in found if file.is_file())
