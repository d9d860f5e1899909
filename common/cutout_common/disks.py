"""Files written whole or not at all, and what is said when a disk has no room for one."""

import errno
import os
import shutil
from pathlib import Path

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


def is_full(error: BaseException) -> bool:
    """Whether an error says that a disk, or the share of it that a user has, is full."""
    return isinstance(error, OSError) and error.errno in _FULL


def room(path: Path) -> str:
    """Which disk a path is on, and how much room it has: "the disk at /mnt has 0.1 MB free of 500.0 MB"."""
    folder = path.absolute()
    while not folder.exists() or not folder.is_dir():
        folder = folder.parent
    usage = shutil.disk_usage(folder)
    while not os.path.ismount(folder):
        folder = folder.parent
    return f"the disk at {folder} has {usage.free / 1e6:.1f} MB free of {usage.total / 1e6:.1f} MB"


def write(path: Path, content: bytes) -> None:
    """Writes a file; a part of one that does not fit is removed.

    Raises:
        OSError: It cannot be written; on a full disk the text says which one it is, and what it has and needs.
    """
    try:
        path.write_bytes(content)
    except OSError as error:
        if not is_full(error):
            raise
        path.unlink(missing_ok=True)
        needed = f"{len(content) / 1e6:.1f} MB are needed: {room(path)}"
        raise OSError(error.errno, needed, str(path)) from error
