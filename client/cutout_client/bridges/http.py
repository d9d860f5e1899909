"""The web service around a bridge."""

import base64
import hmac
import json
import signal
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from cutout_client.bridges.label_studio import LabelStudioBackend
from cutout_client.errors import CutoutError, InvalidRequestError, OverloadedError, UnavailableError

MAX_BODY_BYTES = 64 * 2**20  # brush strokes are lists of numbers

Endpoint = Callable[[Request], Awaitable[JSONResponse]]


def label_studio_app(backend: LabelStudioBackend, *, basic_auth: str = "") -> Starlette:
    """Label Studio's requests.

    Args:
        backend: Answers them.
        basic_auth: USER:PASSWORD that they must show; empty for none.
    """

    def post(answer: Callable[[Mapping[str, Any]], Any]) -> Endpoint:
        async def endpoint(request: Request) -> JSONResponse:
            return await _answered(request, basic_auth, answer)

        return endpoint

    async def health(request: Request) -> JSONResponse:
        answer = await _answered(request, basic_auth, lambda _: backend.health())
        if b'"DOWN"' in bytes(answer.body):
            answer.status_code = 503
        return answer

    # Nothing is learnt from annotations; Label Studio tells of them all the same.
    nothing = post(lambda _: {})
    return Starlette(
        routes=[
            Route("/", health),
            Route("/health", health),
            Route("/setup", post(backend.setup), methods=["POST"]),
            Route("/predict", post(backend.predict), methods=["POST"]),
            Route("/webhook", nothing, methods=["POST"]),
            Route("/train", nothing, methods=["POST"]),
        ]
    )


def serve(app: Starlette, host: str, port: int) -> None:
    """Serves until SIGTERM or Ctrl-C."""
    for number in (signal.SIGTERM, signal.SIGINT):  # which uvicorn raises once more when it has ended
        signal.signal(number, lambda *_: None)
    uvicorn.run(app, host=host, port=port, log_level="warning", access_log=False)


async def _answered(request: Request, basic_auth: str, answer: Callable[[Any], Any]) -> JSONResponse:
    """The answer to a request, or what is wrong with it."""
    if basic_auth and not _may_enter(request, basic_auth):
        return JSONResponse({"error": "wrong user or password"}, 401, {"WWW-Authenticate": "Basic"})
    try:
        body = await _body(request) if request.method == "POST" else {}
        return JSONResponse(await run_in_threadpool(answer, body))
    except (ValueError, InvalidRequestError) as error:
        return JSONResponse({"error": str(error)}, 400)
    except (UnavailableError, OverloadedError) as error:
        return JSONResponse({"error": str(error)}, 503)
    except CutoutError as error:
        return JSONResponse({"error": str(error)}, 500)


def _may_enter(request: Request, basic_auth: str) -> bool:
    expected = b"Basic " + base64.b64encode(basic_auth.encode())
    return hmac.compare_digest(request.headers.get("authorization", "").encode(), expected)


async def _body(request: Request) -> Any:
    content = bytearray()
    async for part in request.stream():
        content += part
        if len(content) > MAX_BODY_BYTES:
            raise ValueError(f"a request has {MAX_BODY_BYTES} bytes at most")
    body = json.loads(bytes(content))
    if not isinstance(body, dict):
        raise ValueError("a request is a JSON object")  # noqa: TRY004 - of the caller's text, not of a type here
    return body
