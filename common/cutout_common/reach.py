"""What is at an address instead of a server, and what to do about it."""

import queue
import socket
import ssl
import threading
from dataclasses import dataclass

from cutout_common.address import host_and_port, unix_path
from cutout_common.probe import Place, Spoken, probe, probe_in_tls

WEB = "a web server answers there, such as the REST gateway; give the server's gRPC port, 50051 unless it is set"
OTHER = "what listens there speaks neither gRPC nor HTTP; give the server's gRPC port, 50051 unless it is set"


@dataclass(frozen=True)
class Tls:
    """How the server is known.

    Attributes:
        roots: PEM of the authorities that are trusted; None for the system's own.
        shows_certificate: Whether the server is shown a certificate. An examination shows none.
    """

    roots: bytes | None = None
    shows_certificate: bool = False


@dataclass(frozen=True)
class Settings:
    """What whoever reads of it calls the settings of TLS.

    Attributes:
        tls: Turns it on.
        roots: Says whom to trust.
        certificate: Say what to show to the server.
    """

    tls: str
    roots: str
    certificate: str


def examine(address: str, tls: Tls | None, settings: Settings, limit_s: float) -> str | None:
    """What is at an address instead of a server that can be talked to, and what to do about it.

    Args:
        address: As `cutout_common.address` takes it.
        tls: None to talk without.
        settings: Their names, for the advice.
        limit_s: The time that there is for it, in seconds.

    Returns:
        Empty when such a server is there; None when it cannot be told.
    """
    found: queue.SimpleQueue[str | None] = queue.SimpleQueue()
    # In a thread, for nothing bounds how long a name takes to be resolved.
    threading.Thread(target=lambda: found.put(_look(address, tls, settings)), daemon=True).start()
    try:
        return found.get(timeout=limit_s)
    except queue.Empty:
        return f"nothing could be found there within {limit_s:g} s; check the address and the network"


def _look(address: str, tls: Tls | None, settings: Settings) -> str | None:
    place = host_and_port(address)
    if place is None:
        return _look_at_socket(unix_path(address))
    host, port = place
    try:
        return _in_tls(place, tls, settings) if tls else _plainly(settings)[probe(place)]
    except socket.gaierror as error:
        return f"the name {host} is not known ({error.strerror}); check its spelling and the network"
    except ConnectionRefusedError:
        return f"nothing listens on port {port}; start the server (`cutout serve`), or give the port that it has"
    except TimeoutError:
        return f"{host} does not answer on port {port}; check the address, the network and the firewalls between"
    except OSError as error:
        return f"{error.strerror or error}; check the address and the network"


def _plainly(settings: Settings) -> dict[Spoken, str]:
    return {
        Spoken.HTTP2: "",
        Spoken.HTTP1: WEB,
        Spoken.TLS: f"the server there talks TLS; turn it on by {settings.tls}",
        Spoken.OTHER: OTHER,
    }


def _in_tls(place: Place, tls: Tls, settings: Settings) -> str | None:
    try:
        context = ssl.create_default_context(cadata=tls.roots.decode() if tls.roots else None)
        spoken = probe_in_tls(place, context)
    except ssl.SSLCertVerificationError as error:
        why = error.verify_message.rstrip(".")
        return f"its certificate is refused: {why}; {settings.roots} says whom to trust"
    except (ssl.SSLError, ConnectionError):
        instead = {
            Spoken.HTTP2: f"the server there talks gRPC without TLS; leave {settings.tls} out",
            Spoken.TLS: "no TLS handshake succeeds there",
        }
        return (_plainly(settings) | instead)[probe(place)]
    if spoken is not Spoken.OTHER:
        return _plainly(settings)[spoken]
    if tls.shows_certificate:
        return None  # it was not shown here
    return (
        "it leaves after the TLS handshake, as a server does that wants a client's certificate; "
        f"give {settings.certificate}"
    )


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
