"""Ids under which a request can be found in every log: one rule for the client, the gateway and the server."""

import re
import uuid

HEADER = "x-request-id"
"""The name of the HTTP header, and of the gRPC metadata."""
EXPECTED = "1 to 128 of A-Z a-z 0-9 . _ : / + = @ -"
PATTERN = "[A-Za-z0-9._:/+=@-]{1,128}"
_FORM = re.compile(PATTERN)


def is_usable(text: str) -> bool:
    """Whether a caller's own id is used: it has to fit into a log line, a header and metadata as it is."""
    return _FORM.fullmatch(text) is not None


def new() -> str:
    """An id for a request that brought none, or one that cannot be used."""
    return uuid.uuid4().hex


def usable_or_new(text: str) -> str:
    """The caller's own id if it can be used, else a new one."""
    return text if is_usable(text) else new()
