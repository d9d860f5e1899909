"""Errors of calls, and what is at an address when no server answers there."""

import asyncio
import os
import re
import urllib.request
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

import grpc
from cutout_common import reach
from cutout_common.address import host_and_port
from cutout_common.status import ErrorDetails

from cutout_client import errors
from cutout_client.transport import Call

LIMIT_S = 3.0
LATE_LIMIT_S = 1.0  # once the caller's time is up

SETTINGS = reach.Settings(
    "tls=True (--tls)", "root_certificates (--ca)", "client_certificate and client_key (--cert, --key)"
)
NO_GRPC = "it is a web server, or a proxy with no gRPC server behind it"


@contextmanager
def translated(call: Call) -> Iterator[None]:
    """Turns what grpc raises inside into a CutoutError, which says what is at the address when no server answered."""
    try:
        yield
    except grpc.RpcError as failure:
        raise explain(failure, call) from None


@asynccontextmanager
async def translated_async(call: Call) -> AsyncIterator[None]:
    """As `translated`, for asyncio."""
    try:
        yield
    except grpc.RpcError as failure:
        raise await asyncio.to_thread(explain, failure, call) from None


def explain(failure: grpc.RpcError, call: Call) -> errors.CutoutError:
    """The error for what grpc raised; takes up to `LIMIT_S` when no server had part in it."""
    error = errors.from_rpc(failure, call.request_id)
    if status := re.match(r"Received http2 header with status: (\d+)", error.message):
        message = f"{call.address} answers by HTTP status {status[1]}: {NO_GRPC}"
    else:
        message = "" if error.reason or failure.trailing_metadata() else _message(error, call)
    return errors.make(error.code, message, ErrorDetails(request_id=error.request_id)) if message else error


def _message(error: errors.CutoutError, call: Call) -> str:
    """What to say in place of gRPC's own text; empty when there is no more to say."""
    address = call.address
    if isinstance(error, errors.DeadlineError):
        return unanswered(call)
    if not isinstance(error, errors.UnavailableError):
        return ""
    found = _examine(call, LIMIT_S)
    if not re.search("failed to connect|resolv", error.message):
        return f"lost the connection to {address}: {found}" if found else ""
    text = f"cannot reach {address}: {found or error.message}"
    if proxy := _proxy(address):
        return f"{text}; gRPC goes through the proxy of ${proxy}, but for hosts in $no_proxy"
    return f"{text}; it answers now" if found == "" else text


def unanswered(call: Call) -> str:
    """Why no answer came in time, if it is for want of a server; empty otherwise."""
    found = _examine(call, LATE_LIMIT_S)
    return f"no answer from {call.address} in time: {found}" if found else ""


def _examine(call: Call, limit_s: float) -> str | None:
    return reach.examine(call.address, call.connection.identity(), SETTINGS, limit_s)


def _proxy(address: str) -> str:
    """The variable that sends gRPC's connections to the address through a proxy; empty when none does."""
    place = host_and_port(address)
    if place is None or urllib.request.proxy_bypass(place[0]):
        return ""
    return next((name for name in ("grpc_proxy", "https_proxy", "http_proxy") if os.environ.get(name)), "")
