"""Answers kept beside the files that were made of them, so that a run goes on where an earlier one ended.

Each picture has one file in `.cutout` below `--out`: a line of JSON, and the answer's message.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

from cutout.v1 import segmentation_pb2
from cutout_common.disks import write
from google.protobuf.message import DecodeError

from cutout_client.cli.folders import Job
from cutout_client.cli.question import Question
from cutout_client.images import read_picture
from cutout_client.responses import read_segmentation
from cutout_client.results import Segmentation
from cutout_client.saving import write_json

FOLDER = ".cutout"
_DATASET = "dataset.json"


@dataclass(frozen=True)
class Kept:
    """What is known of a picture from an earlier run.

    Attributes:
        key: Of the question, and of the file that it was asked about.
        outlines: Whether the answer has polygons.
        request_id: Of the call that brought it.
        files: What was written, for each format: names, with size and time of change.
        message: The answer, serialized.
    """

    key: str
    outlines: bool
    request_id: str
    files: Mapping[str, Mapping[str, list[int]]]
    message: bytes = field(repr=False, default=b"")

    def serves(self, question: Question) -> bool:
        """Whether the answer has all that is wanted of it."""
        return self.outlines or not question.outlines

    def segmentation(self, job: Job) -> Segmentation:
        """The answer."""
        message = segmentation_pb2.Segmentation.FromString(self.message)
        return read_segmentation(message, read_picture(job.source), self.request_id)

    def written(self, job: Job) -> dict[str, list[Path]]:
        """The files of each format of which none is missing."""
        paths = {form: [job.folder / name for name in names] for form, names in self.files.items()}
        return {form: each for form, each in paths.items() if all(path.exists() for path in each)}

    def remove_files(self, job: Job) -> None:
        """Removes what nobody has changed since it was written."""
        for names in self.files.values():
            for name, stamp in names.items():
                path = job.folder / name
                if stamp and _stamp(path) == stamp:
                    path.unlink()


@dataclass(frozen=True)
class Keeper:
    """Keeps the answers to one question.

    Attributes:
        out: The folder of all files.
        question: What is asked.
        again: Nothing is taken from earlier runs.
    """

    out: Path
    question: Question
    again: bool

    def find(self, job: Job) -> Kept | None:
        """The answer that there is, if it is to this very question."""
        earlier = _read(self._path(job))
        return earlier if earlier and not self.again and earlier.key == self._key(job) else None

    def clear(self, job: Job) -> None:
        """Removes what was made of an answer that does not serve: it would say nothing now."""
        if earlier := _read(self._path(job)):
            earlier.remove_files(job)

    def keep(self, job: Job, result: Segmentation, files: Mapping[str, Sequence[Path]]) -> None:
        """Keeps an answer. One on a web address is not kept: another picture may be there tomorrow."""
        if result.message is None or isinstance(job.source, str):
            return
        stamps = {form: {path.name: _stamp(path) for path in paths} for form, paths in files.items()}
        kept = asdict(Kept(self._key(job), self.question.outlines, result.request_id, stamps))
        del kept["message"]
        path = self._path(job)
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f"{path.name}.partial")
        try:
            write(partial, json.dumps(kept).encode() + b"\n" + result.message.SerializeToString())
        except OSError:
            with suppress(OSError):  # Other answers may be there.
                path.parent.rmdir()
            raise
        partial.replace(path)

    def keep_datasets(self, paths: Iterable[Path]) -> None:
        """Takes note of the files of datasets, and removes what an earlier run wrote into the same ones beside them."""
        new = {path.relative_to(self.out): [self.question.digest, _stamp(path)] for path in paths}
        roots = {path.parts[0] for path in new}
        earlier = self._datasets()
        for path in earlier.keys() - new.keys():
            if path.parts[0] in roots:
                self._drop(path, earlier.pop(path)[1])
        if not earlier | new:
            return
        (self.out / FOLDER).mkdir(parents=True, exist_ok=True)
        write_json(self.out / FOLDER / _DATASET, {path.as_posix(): known for path, known in (earlier | new).items()})

    def drop_datasets(self) -> None:
        """Removes the files of datasets that answer another question, unless somebody has changed them."""
        for path, (digest, stamp) in self._datasets().items():
            if digest != self.question.digest:
                self._drop(path, stamp)

    def _datasets(self) -> dict[Path, list[Any]]:
        """The question's digest and the stamp of each file, by its path below `out`."""
        try:
            return {
                Path(name): known for name, known in json.loads((self.out / FOLDER / _DATASET).read_bytes()).items()
            }
        except (OSError, ValueError):
            return {}

    def _drop(self, path: Path, stamp: list[int]) -> None:
        if stamp and _stamp(self.out / path) == stamp:
            (self.out / path).unlink()

    def _path(self, job: Job) -> Path:
        return self.out / FOLDER / job.folder.relative_to(self.out) / f"{job.name}.answer"

    def _key(self, job: Job) -> str:
        about: Any = sha256(job.source).hexdigest() if isinstance(job.source, bytes) else job.source
        if isinstance(job.source, Path):
            about = _stamp(job.source)
        return sha256(repr((self.question.digest, about)).encode()).hexdigest()


def _read(path: Path) -> Kept | None:
    try:
        head, _, message = path.read_bytes().partition(b"\n")
        kept = Kept(**json.loads(head), message=message)
        segmentation_pb2.Segmentation.FromString(message)
    except (OSError, TypeError, ValueError, DecodeError):  # none, or of another version
        return None
    return kept


def _stamp(path: Path) -> list[int]:
    """Changes whenever the file does."""
    try:
        known = path.stat()
    except OSError:
        return []
    return [known.st_size, known.st_mtime_ns]
