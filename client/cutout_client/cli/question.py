"""What a command asks about each of its pictures."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

from cutout_client.client import Client
from cutout_client.images import FilePicture, RemotePicture
from cutout_client.results import Segmentation

# How answers travel; what is asked does not change with it.
_FORM = {"mask_formats"}


@dataclass(frozen=True)
class Question:
    """A method of the client, its prompts and its options.

    Attributes:
        method: Its name.
        prompts: What comes behind the picture.
        options: The rest, by name.
    """

    method: str
    prompts: tuple[Any, ...]
    options: Mapping[str, Any]

    @property
    def outlines(self) -> bool:
        """Whether the answers bring polygons."""
        return "polygons" in self.options["mask_formats"]

    @property
    def digest(self) -> str:
        """Equal for equal questions."""
        options = sorted((name, value) for name, value in self.options.items() if name not in _FORM)
        return sha256(repr((self.method, self.prompts, options)).encode()).hexdigest()

    def ask(self, client: Client, picture: Path | str | bytes) -> Segmentation:
        """Asks about a file, a file's bytes, or what the server fetches; that comes along, to be drawn on."""
        remote = isinstance(picture, str)
        options = {**self.options, "overlay": "plain"} if remote else self.options
        result: Segmentation = getattr(client, self.method)(picture, *self.prompts, **options)
        if remote and result.overlay_file:
            fetched = FilePicture(result.overlay_file)
            result = replace(result, picture=RemotePicture(uri=str(picture), local=fetched))
        return result
