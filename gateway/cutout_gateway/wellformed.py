"""What HTTP/1.1 forbids and its parser lets pass is refused, before anything else looks at a request."""

import re
from urllib.parse import unquote

import grpc
from google.protobuf.descriptor_pool import DescriptorPool
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from cutout_gateway.body import Body
from cutout_gateway.errors import HttpError, error, invalid
from cutout_gateway.protocol import REFUSED
from cutout_gateway.reply import Reply

_VERSIONS = {"1.0", "1.1"}
_ABSOLUTE = re.compile(rb"https?://([^/]*)(.*)", re.IGNORECASE | re.DOTALL)  # RFC 9112, section 3.2.2
_HOST = re.compile(r"(\[[0-9A-Fa-fv:.]+\]|[A-Za-z0-9._~!$&'()*+,;=%-]*)(:[0-9]*)?")  # RFC 3986, section 3.2.2


class WellFormed:
    """Middleware; every target that it passes on is a path."""

    def __init__(self, app: ASGIApp, pool: DescriptorPool) -> None:
        self._app = app
        self._pool = pool

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes a request on, or refuses it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        state = scope["state"]

        async def receive_checked() -> Message:
            message = await receive()
            if refused := state.pop(REFUSED, None):
                raise refused
            return message

        try:
            if refused := state.pop(REFUSED, None):
                raise refused
            _check(scope)
        except HttpError as failure:
            body = Body(Headers(scope=scope), receive_checked)
            await Reply(send, body).error(failure, self._pool, state["request_id"])
        else:
            await self._app(scope, receive_checked, send)


def _check(scope: Scope) -> None:
    """Brings the target of a request into origin form.

    Raises:
        HttpError: The request is not to be answered otherwise.
    """
    headers = MutableHeaders(scope=scope)
    if scope["http_version"] not in _VERSIONS:
        message = f"HTTP/{scope['http_version']} is not spoken here: expected HTTP/1.1"
        raise error(505, grpc.StatusCode.UNIMPLEMENTED, message, reason="HTTP_VERSION_NOT_SUPPORTED", headers=_CLOSE)
    if "transfer-encoding" in headers and ("content-length" in headers or scope["http_version"] == "1.0"):
        # RFC 9112, section 6.1: whoever reads the length otherwise takes the rest for another request.
        raise invalid("Transfer-Encoding", "expected none beside Content-Length or in HTTP/1.0", headers=_CLOSE)
    if absolute := _ABSOLUTE.fullmatch(scope["raw_path"]):
        authority, path = absolute.groups()
        headers["host"] = authority.decode("latin-1")
        scope["raw_path"] = path or b"/"
        scope["path"] = unquote(scope["raw_path"].decode("latin-1"))
    if not _HOST.fullmatch(headers.get("host", "")):
        raise invalid("Host", "expected a name or an address, and a port or none", headers=_CLOSE)


_CLOSE = {"connection": "close"}
