"""The commit that this code is from. Needs nothing but Python: the build runs it before anything is installed."""

import subprocess
from functools import cache
from pathlib import Path

UNKNOWN = "unknown"

# The build writes it into wheels and sdists; a checkout has none.
WRITTEN = Path(__file__).with_name("commit.txt")

_CHECKOUT = Path(__file__).parents[2]
_GIT_S = 5.0


@cache
def commit() -> str:
    """Twelve hex digits, with "-dirty" where tracked files differ from it; "unknown" where nothing tells."""
    if WRITTEN.is_file():
        return WRITTEN.read_text(encoding="ascii").strip()
    # Only this checkout's own repository: an installation may lie inside of another's.
    git_dir = _CHECKOUT / ".git"
    if not git_dir.exists():
        return UNKNOWN
    command = ["git", f"--git-dir={git_dir}", f"--work-tree={_CHECKOUT}"]
    command += ["describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    try:
        asked = subprocess.run(command, capture_output=True, text=True, check=True, timeout=_GIT_S)  # noqa: S603
    except (OSError, subprocess.SubprocessError):
        return UNKNOWN
    return asked.stdout.strip() or UNKNOWN
