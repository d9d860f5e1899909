"""SAM 2 for smaller pictures than it is made for: the same weights, and a fraction of the time.

A frame of 4,096 tokens, which an object is followed into, has 256 at a side of 256 pixels.
"""

from importlib import resources
from pathlib import Path

from cutout_server.models.sam2 import architecture

from harness.subjects import Subject

_SERVER = Path(__file__).parent / "small_sam2_server.py"


def small(subject: Subject, side: int, folder: Path) -> Subject:
    """The same weights for pictures of `side` pixels a side; the configuration is written into the folder."""
    official = resources.files("sam2") / "configs" / "sam2.1" / f"{subject.config}.yaml"
    config = folder / f"side-{side}.yaml"
    config.write_text(official.read_text().replace("image_size: 1024", f"image_size: {side}"))
    return Subject(subject.name, subject.family, subject.checkpoint, str(config), subject.runtime)


def small_server(side: int) -> tuple[str, ...]:
    """The program that serves it."""
    return str(_SERVER), str(side)


def allow(side: int) -> None:
    """Has this process load it by the server's own code, which knows one side alone."""
    architecture._SIDE = side  # noqa: SLF001 - nobody but a benchmark wants it
