"""The composition root: settings and contracts in, an ASGI application out."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from cutout_common.traces import tracer_of
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from cutout_gateway import compat, docs, page
from cutout_gateway.answer_writer import AnswerWriter
from cutout_gateway.cors import Cors
from cutout_gateway.descriptors import Contract
from cutout_gateway.errors import HttpError, method_not_allowed, not_found, status_json
from cutout_gateway.in_hand import InHand
from cutout_gateway.link import Server, linked
from cutout_gateway.metrics import PATH, Metrics
from cutout_gateway.observe import Observe
from cutout_gateway.openapi import document
from cutout_gateway.probes import healthz, readyz
from cutout_gateway.processes import Processes
from cutout_gateway.request_reader import RequestReader
from cutout_gateway.routes import Routes
from cutout_gateway.settings import GatewaySettings
from cutout_gateway.transcoder import Transcoder
from cutout_gateway.wellformed import WellFormed

TITLE = "Cutout"


def create_app(settings: GatewaySettings, contract: Contract | None = None) -> Starlette:
    """Makes the gateway's application.

    Args:
        settings: Where the server is, and the bounds.
        contract: What to serve; Cutout's own when it is left out.

    Raises:
        ContractError: An HTTP rule cannot be served.
        OSError: A TLS file cannot be read.
    """
    contract = contract or Contract.load()
    pool = contract.pool
    routes = Routes(contract)
    processes = Processes(contract, routes)
    reader, writer = RequestReader(processes), AnswerWriter(processes, pool)
    described = document(contract, routes, TITLE)
    server = Server.of(settings)

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[dict[str, Any]]:
        del app
        try:
            async with linked(server) as links:
                yield {"links": links}
        finally:
            processes.close()
            await asyncio.to_thread(tracer.close)

    async def openapi(request: Request) -> JSONResponse:
        del request
        return JSONResponse(described)

    async def refused(request: Request, failure: Exception) -> JSONResponse:
        """Starlette's own refusals, such as POST /docs, in the form of all others."""
        path = request.url.path
        allow = (getattr(failure, "headers", None) or {}).get("Allow", "")
        answer: HttpError = method_not_allowed(path, sorted(allow.split(", "))) if allow else not_found(path)
        body = status_json(answer.status, pool, request.state.request_id)
        return JSONResponse(body, answer.http_status, answer.headers)

    in_hand, metrics = InHand(settings), Metrics()
    tracer = tracer_of("cutout-gateway", settings.trace_endpoint, settings.trace_share)
    for what, allowance in ("bodies", in_hand.bodies), ("answers", in_hand.answers):
        metrics.bytes_in_hand(what, allowance)
    pages = [
        Route("/healthz", healthz),
        Route("/readyz", readyz),
        Route("/openapi.json", openapi),
        *([Route(PATH, metrics.page)] if settings.metrics else []),
        *docs.routes(TITLE),
        *page.routes(),
    ]
    spoken = compat.routes(settings, contract, (routes, pages), reader, writer, pool, in_hand)
    pages = [*spoken, *pages]
    observe = Middleware(Observe, settings=settings, pool=pool, pages=pages, metrics=metrics, tracer=tracer)
    origins = settings.cors_origins
    cors = [Middleware(Cors, origins=origins, pool=pool)] if origins else []
    app = Starlette(
        routes=pages,
        middleware=[observe, Middleware(WellFormed, pool=pool), *cors],
        exception_handlers={HTTPException: refused},
        lifespan=lifespan,
    )
    app.state.settings = settings
    app.router.redirect_slashes = False
    app.router.default = Transcoder(settings, routes, reader, writer, pool, in_hand)
    return app
