"""A folder of this process alone for pictures at rest: others cannot look into it, and it does not outlive its process.

A process that is killed cannot remove its folder. So each is locked as long as its process lives, and whoever makes one
removes those that nobody locks any more. systemd's cleaner of old temporary files, too, passes over what is locked.
"""

import contextlib
import fcntl
import io
import os
import secrets
import shutil
import tempfile
from pathlib import Path

PREFIX = "cutout-uploads-"
_PROBE = b"\0" * 4096


class PrivateFolder:
    """Files that their owner alone can read.

    Args:
        parent: Where the folder is made; the system's place for temporary files when it is left out.

    Raises:
        OSError: It cannot be made.
    """

    def __init__(self, parent: Path | None) -> None:
        self._parent = Path(tempfile.gettempdir()) if parent is None else parent
        _remove_abandoned(self._parent)
        self.path, self._lock = _make(self._parent)

    def create(self) -> tuple[Path, io.FileIO]:
        """A new file to be written, unbuffered; the folder is made again if something has removed it.

        Raises:
            OSError: It cannot be made.
        """
        if not self.is_there():
            made, gone = _make(self._parent), self._lock
            self.path, self._lock = made
            os.close(gone)
        path = self.path / secrets.token_urlsafe(16)
        return path, io.FileIO(path, "xb", opener=_for_the_owner)

    def is_there(self) -> bool:
        """Whether the folder is where it was made."""
        return _is_at(self.path, self._lock)

    def has_room(self, size_bytes: int) -> bool:
        """Whether a file of this size is likely to fit."""
        try:
            path, file = self.create()
            try:
                with file:
                    file.write(_PROBE)
            finally:
                path.unlink()
            disk = os.statvfs(self.path)
        except OSError:
            return False
        return disk.f_bavail * disk.f_frsize >= size_bytes

    def remove(self) -> None:
        """Removes it with all that is in it."""
        shutil.rmtree(self.path, ignore_errors=True)
        os.close(self._lock)


def _for_the_owner(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def _make(parent: Path) -> tuple[Path, int]:
    """Makes a folder and locks it."""
    parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    while True:
        path = Path(tempfile.mkdtemp(prefix=PREFIX, dir=parent))  # which the owner alone may enter
        try:
            lock = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        except FileNotFoundError:
            continue  # Another process took it for an abandoned one before it was opened,
        # Of file systems without locks: nobody can lock, and removes, anything there.
        with contextlib.suppress(OSError):
            fcntl.flock(lock, fcntl.LOCK_EX)
        if _is_at(path, lock):
            return path, lock
        os.close(lock)  # or before it was locked.


def _is_at(path: Path, opened: int) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(opened))
    except OSError:
        return False


def _remove_abandoned(parent: Path) -> None:
    for path in parent.glob(f"{PREFIX}*"):
        with contextlib.suppress(OSError):  # somebody else's, locked, or just removed by another process
            lock = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if os.fstat(lock).st_uid == os.getuid():
                    shutil.rmtree(path)
            finally:
                os.close(lock)
