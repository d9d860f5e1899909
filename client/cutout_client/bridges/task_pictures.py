"""The pictures of tasks: fetched from where the tool keeps them, stored on the server once, then named by their ids."""

import json
import threading
import urllib.request
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar
from urllib.error import URLError
from urllib.parse import urljoin, urlsplit

from cutout_client.client import Client
from cutout_client.errors import NotFoundError
from cutout_client.images import UploadedImage

FETCH_S = 30.0
MAX_BYTES = 256 * 2**20
REMEMBERED = 1000

Answer = TypeVar("Answer")


@dataclass(frozen=True)
class Host:
    """Where pictures with a path alone are.

    Attributes:
        url: Its address; empty when it is not known.
        token: Shown there, and nowhere else.
    """

    url: str = ""
    token: str = ""

    def request(self, picture: str) -> urllib.request.Request:
        """What fetches a picture.

        Raises:
            ValueError: Its address is of no kind that can be fetched.
        """
        if picture.startswith("/") and not self.url:
            raise ValueError(
                f"{picture} is a path on Label Studio's side, whose address is not known: --label-studio-url"
            )
        address = urljoin(self.url, picture)
        if urlsplit(address).scheme not in {"http", "https"}:
            raise ValueError(f"{picture}: pictures are fetched from http:// and https:// addresses alone")
        request = urllib.request.Request(address)  # noqa: S310 - just looked
        if self.token and urlsplit(address)[:2] == urlsplit(self.url)[:2]:
            request.add_unredirected_header("Authorization", self._authorization())
        return request

    def _authorization(self) -> str:
        """A legacy token itself; a personal access token is a JWT, which is changed for one that lives for minutes."""
        if self.token.count(".") != 2:
            return f"Token {self.token}"
        body = json.dumps({"refresh": self.token}).encode()
        where = urljoin(self.url, "/api/token/refresh")
        asked = urllib.request.Request(where, body, {"Content-Type": "application/json"})  # noqa: S310 - as above
        return f"Bearer {json.loads(_read(asked))['access']}"


class TaskPictures:
    """Remembers which picture the server has by which id, so that a further click on one costs the decoder alone."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._lock = threading.Lock()
        self._stored: OrderedDict[tuple[Host, str], UploadedImage] = OrderedDict()

    def ask(self, host: Host, picture: str, question: Callable[[UploadedImage], Answer]) -> Answer:
        """Answers a question about a picture.

        Raises:
            ValueError: It cannot be fetched.
            CutoutError: The server says no.
        """
        key = host, picture
        with self._lock:
            stored = self._stored.get(key)
        if stored is not None:
            try:
                return question(stored)
            except NotFoundError as error:
                if error.reason != "IMAGE_NOT_FOUND":
                    raise
        stored = self._client.upload(_read(host.request(picture)))
        with self._lock:
            self._stored[key] = stored
            self._stored.move_to_end(key)
            if len(self._stored) > REMEMBERED:
                self._stored.popitem(last=False)
        return question(stored)


def _read(request: urllib.request.Request) -> bytes:
    try:
        with urllib.request.urlopen(request, timeout=FETCH_S) as answer:  # noqa: S310 - http and https alone
            content: bytes = answer.read(MAX_BYTES + 1)
    except (URLError, OSError) as error:
        raise ValueError(f"{request.full_url} cannot be fetched: {error}") from error
    if len(content) > MAX_BYTES:
        raise ValueError(f"{request.full_url} has more than {MAX_BYTES} bytes")
    return content
