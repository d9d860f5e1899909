"""Which of several servers a call should go to: the one that has seen its picture, or the one that stores it.

The same rule holds for the client and the gateway, which choose a server or tell a load balancer by metadata, and for
the server, which writes into the id of a stored picture what finds it again.
"""

import re
import secrets
from dataclasses import dataclass
from hashlib import sha256

KEY = "x-cutout-image-key"
"""The metadata by which a load balancer hashes: equal for all calls about one picture."""
ELSEWHERE = "IMAGE_ELSEWHERE"
"""The reason of a server that is asked for a picture which another one stored, or it itself before it was restarted."""
HOLDER = "server"
"""The name of the server that says so, in the error's metadata."""

# 128 bits are enough for no two pictures to meet, and keep ids short.
_DIGITS = 32
_SERVER = "[0-9a-f]{8}"
_KEY = "[0-9a-f]{8,64}"
IMAGE, VIDEO = "img", "vid"
"""What ids of stored pictures and videos begin with."""
_ID = re.compile(f"(?:{IMAGE}|{VIDEO})_({_SERVER})_({_KEY})_.+", re.ASCII)


@dataclass(frozen=True)
class Place:
    """Where a call should go.

    Attributes:
        key: Of the picture that it is about; empty when there is none.
        server: The name of the server that stores the picture; empty when any will do.
    """

    key: str = ""
    server: str = ""

    @property
    def metadata(self) -> tuple[tuple[str, str], ...]:
        """What tells a load balancer."""
        return ((KEY, self.key),) if self.key else ()


ANYWHERE = Place()


def by_content(content: bytes) -> Place:
    """The place of a picture that travels along, by its bytes."""
    return Place(sha256(content).hexdigest()[:_DIGITS])


def by_digest(digest: str) -> Place:
    """The same by the hexadecimal SHA-256 of the bytes."""
    return Place(digest[:_DIGITS].lower())


def by_id(file_id: str) -> Place:
    """The place of a stored picture or video; anywhere for what is no id of ours."""
    found = _ID.fullmatch(file_id)
    return Place(found[2], found[1]) if found else ANYWHERE


def somewhere() -> Place:
    """A place for a picture whose bytes are not known yet: its id will lead there."""
    return Place(secrets.token_hex(_DIGITS // 2))


def new_server() -> str:
    """A name for a server that tells strangers nothing about it; another one whenever it is started."""
    return secrets.token_hex(4)


def new_id(kind: str, server: str, key: str) -> str:
    """An id that nobody guesses, of a picture or video that a server stores under the key that it came with."""
    return f"{kind}_{server}_{key}_{secrets.token_urlsafe(16)}"


def usable_key(key: str, digest: str) -> str:
    """The key that a picture came with, if it is of our form; else that of its digest."""
    return key if re.fullmatch(_KEY, key, re.ASCII) else by_digest(digest).key
