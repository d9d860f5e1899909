"""Which pictures a command is about, and where the files about each go."""

import argparse
import os
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from cutout_common.formats import SUFFIXES

from cutout_client.images import UNNAMED, RemotePicture

STDIN = "-"
_WEB = ("http://", "https://")


@dataclass(frozen=True)
class Job:
    """One picture.

    Attributes:
        source: The file, or a folder that cannot be read; a web address, which the server fetches; or a file's bytes,
            as they came on standard input.
        title: What tables and the COCO file call it.
        folder: Where its files go.
        name: How their names begin.
        error: Why there is nothing to ask about, if that is known already.
    """

    source: Path | str | bytes
    title: str
    folder: Path
    name: str
    error: OSError | None = None

    @property
    def origin(self) -> str:
        """The source as it was named."""
        return STDIN if isinstance(self.source, bytes) else str(self.source)


def add_pictures(parser: argparse.ArgumentParser) -> None:
    """Adds the pictures, before every other argument."""
    parser.add_argument(
        "images",
        nargs="+",
        type=_image,
        metavar="IMAGE",
        help="a picture; a folder of them, however deep; an http(s) address, which the server fetches; - for a picture "
        "on standard input",
    )


def jobs(images: Iterable[Path | str], out: Path) -> Iterator[Job]:
    """Every picture once for each time that it was named.

    Raises:
        ValueError: A folder holds no picture, or there is none on standard input.
    """
    titles: set[str] = set()
    taken: set[tuple[Path, str]] = set()
    for image in images:
        for source, inside, error in _found(image, out):
            whole = source.as_posix() if isinstance(source, Path) else image
            title = str(whole) if inside.as_posix() in titles else inside.as_posix()
            titles.add(title)
            folder, name = out / inside.parent, inside.stem
            if (folder, name) in taken:  # cat.jpg beside cat.png
                name = inside.name
            while (folder, name) in taken:
                name += "_"
            taken.add((folder, name))
            yield Job(source, title, folder, name, error)


def _image(text: str) -> Path | str:
    if text == STDIN or text.startswith(_WEB):
        return text
    if "://" in text:
        raise argparse.ArgumentTypeError(f"{text}: of addresses, only http:// and https:// are fetched")
    return Path(text)


def _found(image: Path | str, out: Path) -> Iterator[tuple[Path | str | bytes, Path, OSError | None]]:
    """Each source, what it is called, and why it cannot be read."""
    if image == STDIN:
        yield _standard_input(), Path("stdin"), None
    elif isinstance(image, str):
        yield image, Path(RemotePicture(uri=image).file_name or UNNAMED), None
    elif not _is_folder(image):
        yield image, Path(image.name), None
    else:
        for source, error in _pictures(image, out):
            yield source, source.relative_to(image), error


def _standard_input() -> bytes:
    if sys.stdin.isatty():
        raise ValueError("- is a picture on standard input, and this is a terminal: cutout segment - ... < cat.jpg")
    if content := sys.stdin.buffer.read():
        return content
    raise ValueError("- is a picture on standard input, where there is none (any more)")


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
