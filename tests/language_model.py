"""A server on loopback that speaks the chat completions protocol of OpenAI, as far as a rewriter needs it."""

import asyncio
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import uvicorn
from cutout_gateway.listener import listen
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

KEY = "sk-loopback-0123456789"
MODEL = "tiny-instruct"


@dataclass
class LanguageModel:
    """What it answers can be changed between calls.

    Attributes:
        url: Its base URL.
        content: What the assistant says: text, or a list of parts.
        refuses: Fields of a question that it answers 400 to, with the value of `type` where they have one.
        status: Answered instead of 200.
        body: Answered instead of a completion.
        is_slow: Thinks until whoever asked has left.
        headers: Sent along.
        questions: Every question that it was asked, refused ones too.
        left: Set when a caller leaves before its answer.
    """

    url: str
    content: Any = ""
    refuses: frozenset[str] = frozenset()
    status: int = 200
    body: bytes | None = None
    is_slow: bool = False
    headers: dict[str, str] = field(default_factory=dict)
    questions: list[dict[str, Any]] = field(default_factory=list)
    left: threading.Event = field(default_factory=threading.Event)

    def says(self, *phrases: tuple[int, str]) -> None:
        """Makes it answer in the form that it is asked for."""
        self.content = json.dumps({"phrases": [{"prompt_index": index, "phrase": phrase} for index, phrase in phrases]})

    def reset(self) -> None:
        """As new."""
        vars(self).update(vars(LanguageModel(self.url)))

    async def complete(self, request: Request) -> Response:
        """POST {base}/chat/completions."""
        if request.headers.get("authorization") != f"Bearer {KEY}":
            return _error(401, "invalid_api_key", f"Incorrect API key: {request.headers.get('authorization')}")
        question = await request.json()
        self.questions.append(question)
        if question["model"] != MODEL:
            return _error(404, "model_not_found", f"no model {question['model']}")
        form = question.get("response_format", {}).get("type")
        if self.refuses & {*question, form}:
            return _error(400, "unsupported_parameter", f"expected none of {sorted(self.refuses)}")
        if self.is_slow:
            while not await request.is_disconnected():  # noqa: ASYNC110 - Starlette has no event for it
                await asyncio.sleep(0.02)
            self.left.set()
        if self.status != 200:
            return Response("something is wrong", self.status, self.headers)
        if self.body is not None:
            return StreamingResponse(_pieces(self.body), 200, self.headers)
        message = {"role": "assistant", "content": self.content}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        return JSONResponse({"id": "1", "object": "chat.completion", "model": MODEL, "choices": [choice]})


async def _pieces(body: bytes) -> Any:
    for start in range(0, len(body), 65536):
        yield body[start : start + 65536]


def _error(status: int, code: str, message: str) -> JSONResponse:
    return JSONResponse({"error": {"message": message, "type": "invalid_request_error", "code": code}}, status)


@contextmanager
def run_language_model() -> Iterator[LanguageModel]:
    """Serves on a free port, on a thread."""
    listener = listen("127.0.0.1", 0)
    model = LanguageModel(f"http://127.0.0.1:{listener.getsockname()[1]}/v1")
    app = Starlette(routes=[Route("/v1/chat/completions", model.complete, methods=["POST"])])
    server = uvicorn.Server(uvicorn.Config(app, log_level="critical", lifespan="off"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, name="language-model")
    thread.start()
    try:
        yield model
    finally:
        server.should_exit = True
        thread.join()
        listener.close()
