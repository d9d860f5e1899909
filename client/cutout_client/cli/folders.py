"""Which pictures a command is about, and where the files about each go."""

import argparse
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from cutout_common.formats import SUFFIXES


@dataclass(frozen=True)
class Job:
    """One picture.

    Attributes:
        source: The file; or a folder that cannot be read.
        title: What tables and the COCO file call it.
        folder: Where its files go.
        name: How their names begin.
        error: Why there is nothing to ask about, if that is known already.
    """

    source: Path
    title: str
    folder: Path
    name: str
    error: OSError | None = None


def add_pictures(parser: argparse.ArgumentParser) -> None:
    """Adds the pictures, before every other argument."""
    parser.add_argument(
        "images", nargs="+", type=Path, metavar="IMAGE", help="a picture, or a folder of them, however deep"
    )


def jobs(images: Iterable[Path], out: Path) -> Iterator[Job]:
    """Every picture once for each time that it was named.

    Raises:
        ValueError: A folder holds no picture.
    """
    titles: set[str] = set()
    taken: set[tuple[Path, str]] = set()
    for image in images:
        is_folder = _is_folder(image)
        for source, error in _pictures(image, out) if is_folder else [(image, None)]:
            inside = source.relative_to(image) if is_folder else Path(source.name)
            title = source.as_posix() if inside.as_posix() in titles else inside.as_posix()
            titles.add(title)
            folder, name = out / inside.parent, source.stem
            if (folder, name) in taken:  # cat.jpg beside cat.png
                name = source.name
            while (folder, name) in taken:
                name += "_"
            taken.add((folder, name))
            yield Job(source, title, folder, name, error)


def _is_folder(image: Path) -> bool:
    try:
        return image.is_dir()
    except OSError:  # which is said again when it is read
        return False


def _pictures(root: Path, out: Path) -> list[tuple[Path, OSError | None]]:
    """Files and unreadable folders below one; what is hidden and what was written there is left out."""
    unreadable: list[OSError] = []
    found: list[tuple[Path, OSError | None]] = []
    for place, folders, files in os.walk(root, onerror=unreadable.append):
        folders[:] = [name for name in folders if not _hidden(name) and Path(place, name).resolve() != out.resolve()]
        paths = (Path(place, name) for name in files if not _hidden(name))
        found += [(path, None) for path in paths if path.suffix.lower() in SUFFIXES]
    found += [(Path(error.filename), error) for error in unreadable]
    if not found:
        raise ValueError(f"there is no picture in {root}")
    return sorted(found, key=lambda each: each[0])


def _hidden(name: str) -> bool:
    """Hidden files are thumbnails, and `._cat.jpg` is what macOS knows about cat.jpg."""
    return name.startswith(".")
