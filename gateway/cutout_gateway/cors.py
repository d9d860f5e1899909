"""Pages of other origins: which of them may call, and what the others are told."""

from collections.abc import Sequence

from cutout_common import request_ids
from google.protobuf.descriptor_pool import DescriptorPool
from starlette.datastructures import Headers
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp

from cutout_gateway.errors import invalid, status_json
from cutout_gateway.headers import request_id

METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE")


class Cors(CORSMiddleware):
    """Refuses preflights in the form of all other refusals; browsers look at the headers alone, people at both.

    Args:
        app: What is around which it is put.
        origins: Whose pages may call; '*' is everyone's.
        pool: Knows the errors' details.
    """

    def __init__(self, app: ASGIApp, origins: Sequence[str], pool: DescriptorPool) -> None:
        # Without credentials: callers show their key in a header, never in a cookie, so that '*' gives nothing away.
        super().__init__(
            app,
            allow_origins=origins,
            allow_methods=METHODS,
            allow_headers=["*"],
            expose_headers=[request_ids.HEADER, "retry-after"],
            allow_credentials=False,
        )
        self._pool = pool

    def preflight_response(self, request_headers: Headers) -> Response:
        """The answer to a browser that asks whether a page may call."""
        answer = super().preflight_response(request_headers)
        if answer.status_code == 200:
            return answer
        if not self.is_allowed_origin(request_headers["origin"]):
            refused = invalid("Origin", "expected one of those that the setting cors_origins names")
        else:
            refused = invalid("Access-Control-Request-Method", f"expected one of {', '.join(METHODS)}")
        headers = {name: value for name, value in answer.headers.items() if not name.startswith("content-")}
        body = status_json(refused.status, self._pool, request_id(request_headers))
        return JSONResponse(body, refused.http_status, headers)
