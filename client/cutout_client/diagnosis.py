"""When no server answers: what is at its address instead, and what to do about it."""

import asyncio
import os
import queue
import re
import socket
import ssl
import threading
import urllib.request
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

import grpc
from cutout_common.address import host_and_port, unix_path
from cutout_common.status import ErrorDetails

from cutout_client import errors
from cutout_client.probe import Place, Spoken, probe, probe_in_tls
from cutout_client.transport import Call, Connection, read_pem

LIMIT_S = 3.0
LATE_LIMIT_S = 1.0  # once the caller's time is up

WEB = "a web server answers there, such as the REST gateway; give the server's gRPC port, 50051 unless it is set"
OTHER = "what listens there speaks neither gRPC nor HTTP; give the server's gRPC port, 50051 unless it is set"
TO_PLAIN = {
    Spoken.HTTP2: "",
    Spoken.HTTP1: WEB,
    Spoken.TLS: "the server there talks TLS; turn it on by tls=True (--tls)",
    Spoken.OTHER: OTHER,
}
INSTEAD_OF_TLS = TO_PLAIN | {
    Spoken.HTTP2: "the server there talks gRPC without TLS; leave tls=True (--tls) out",
    Spoken.TLS: "no TLS handshake succeeds there",
}
NO_GRPC = "it is a web server, or a proxy with no gRPC server behind it"
IN_TLS = TO_PLAIN | {
    Spoken.OTHER: "it leaves after the TLS handshake, as a server does that wants a client's certificate; "
    "give client_certificate and client_key (--cert, --key)",
}


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
        message = f"{call.connection.address} answers by HTTP status {status[1]}: {NO_GRPC}"
    else:
        message = "" if error.reason or failure.trailing_metadata() else _message(error, call.connection)
    return errors.make(error.code, message, ErrorDetails(request_id=error.request_id)) if message else error


def _message(error: errors.CutoutError, connection: Connection) -> str:
    """What to say in place of gRPC's own text; empty when there is no more to say."""
    address = connection.address
    if isinstance(error, errors.DeadlineError):
        return unanswered(connection)
    if not isinstance(error, errors.UnavailableError):
        return ""
    connection.unanswered.set()
    found = examine(connection, LIMIT_S)
    if not re.search("failed to connect|resolv", error.message):
        return f"lost the connection to {address}: {found}" if found else ""
    text = f"cannot reach {address}: {found or error.message}"
    if proxy := _proxy(address):
        return f"{text}; gRPC goes through the proxy of ${proxy}, but for hosts in $no_proxy"
    return f"{text}; it answers now" if found == "" else text


def unanswered(connection: Connection) -> str:
    """Why no answer came in time, if it is for want of a server; empty otherwise."""
    found = examine(connection, LATE_LIMIT_S)
    return f"no answer from {connection.address} in time: {found}" if found else ""


def examine(connection: Connection, limit_s: float) -> str | None:
    """What is at an address instead of a server that the connection can talk to, and what to do about it.

    Returns:
        Empty when such a server is there; None when it cannot be told.
    """
    found: queue.SimpleQueue[str | None] = queue.SimpleQueue()
    # In a thread, for nothing bounds how long a name takes to be resolved.
    threading.Thread(target=lambda: found.put(_look(connection)), daemon=True).start()
    try:
        return found.get(timeout=limit_s)
    except queue.Empty:
        return f"nothing could be found there within {limit_s:g} s; check the address and the network"


def _look(connection: Connection) -> str | None:
    place = host_and_port(connection.address)
    if place is None:
        return _look_at_socket(unix_path(connection.address))
    host, port = place
    try:
        return _in_tls(place, connection) if connection.tls else TO_PLAIN[probe(place)]
    except socket.gaierror as error:
        return f"the name {host} is not known ({error.strerror}); check its spelling and the network"
    except ConnectionRefusedError:
        return f"nothing listens on port {port}; start the server (`cutout serve`), or give the port that it has"
    except TimeoutError:
        return f"{host} does not answer on port {port}; check the address, the network and the firewalls between"
    except OSError as error:
        return f"{error.strerror or error}; check the address and the network"


def _in_tls(place: Place, connection: Connection) -> str | None:
    roots = read_pem(connection.root_certificates)
    try:
        context = ssl.create_default_context(cadata=roots.decode() if roots else None)
        spoken = probe_in_tls(place, context)
    except ssl.SSLCertVerificationError as error:
        why = error.verify_message.rstrip(".")
        return f"its certificate is refused: {why}; root_certificates (--ca) says whom to trust"
    except (ssl.SSLError, ConnectionError):
        return INSTEAD_OF_TLS[probe(place)]
    if spoken is Spoken.OTHER and connection.client_certificate:
        return None  # it was not shown here
    return IN_TLS[spoken]


def _look_at_socket(path: str) -> str | None:
    if not path:
        return None
    try:
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(path)
    except FileNotFoundError:
        return f"there is no socket {path}; check the path, and whether the server has been started"
    except OSError as error:
        return f"{error.strerror}; check the path, and whether the server runs"
    return ""


def _proxy(address: str) -> str:
    """The variable that sends gRPC's connections to the address through a proxy; empty when none does."""
    place = host_and_port(address)
    if place is None or urllib.request.proxy_bypass(place[0]):
        return ""
    return next((name for name in ("grpc_proxy", "https_proxy", "http_proxy") if os.environ.get(name)), "")
