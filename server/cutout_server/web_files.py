"""Files from plain addresses: resumed where they broke off, checked, put into place at once, fetched by one process."""

import sys
from functools import partial
from pathlib import Path
from typing import Any

import httpx
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

_TIMEOUT_S = 60.0
_PARTIAL, _NOT_FOUND, _BEYOND_END = 206, 404, 416


class ChecksumError(Exception):
    """What came is not what was expected."""


class MissingError(Exception):
    """There is nothing at the address."""


def fetch(url: str, sha256: str, path: Path, *, progress: bool) -> Path:
    """The file at `path`, downloaded unless it is there.

    Args:
        url: Its address, http or https.
        sha256: What it must hash to, hexadecimal.
        path: Where it goes; beside it lie a lock, and what came of a download that broke off.
        progress: Draw a bar on stderr.

    Raises:
        ChecksumError: It hashes to something else; what came is removed.
        MissingError: The address has nothing.
        httpx.HTTPError: The network failed; what came is kept, and the next call goes on from there.
        OSError: The disk failed.
    """
    import filelock  # noqa: PLC0415 - a server of the built-in model is installed without them
    import pooch  # noqa: PLC0415

    path.parent.mkdir(parents=True, exist_ok=True)
    pooch.get_logger().setLevel("WARNING")  # It would write lines of its own among ours.
    with filelock.FileLock(path.with_name(f"{path.name}.lock")):
        if not path.is_file():  # Another process may have been faster.
            try:
                pooch.retrieve(
                    url,
                    known_hash=f"sha256:{sha256}",
                    fname=path.name,
                    path=path.parent,
                    downloader=partial(_download, partial_file=path.with_name(f"{path.name}.part"), progress=progress),
                )
            except ValueError as error:  # pooch's word for another hash; it has removed the file.
                raise ChecksumError(path.name) from error
    return path


def _download(url: str, output_file: str, _: Any, *, partial_file: Path, progress: bool) -> None:
    """A downloader for pooch that goes on where the last one broke off."""
    have = partial_file.stat().st_size if partial_file.is_file() else 0
    headers = {"accept-encoding": "identity"} | ({"range": f"bytes={have}-"} if have else {})
    with httpx.stream("GET", url, headers=headers, follow_redirects=True, timeout=_TIMEOUT_S) as answer:
        if answer.status_code == _NOT_FOUND:
            raise MissingError(url)
        if answer.status_code != _BEYOND_END:  # Otherwise all of it is there, and was not yet checked.
            answer.raise_for_status()
            resumed = answer.status_code == _PARTIAL
            rest = int(answer.headers["content-length"]) if "content-length" in answer.headers else None
            begun = have if resumed else 0
            with partial_file.open("ab" if resumed else "wb") as file, _bar(progress) as bar:
                total = None if rest is None else begun + rest
                task = bar.add_task(partial_file.stem, total=total, completed=begun)
                for chunk in answer.iter_raw():
                    file.write(chunk)
                    bar.advance(task, len(chunk))
    partial_file.replace(output_file)


def _bar(progress: bool) -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    return Progress(*columns, TimeRemainingColumn(), console=Console(file=sys.stderr), disable=not progress)
