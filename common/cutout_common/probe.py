"""Which protocol is spoken at a port, found out by a plain socket."""

import socket
import ssl
from contextlib import closing
from enum import Enum, auto

STEP_S = 0.9  # for each of: to connect, to shake hands, to answer

# RFC 9113, 3.4: so a client of HTTP/2 begins, and its server answers by SETTINGS of its own.
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])
SETTINGS = 4

Place = tuple[str, int]


class Spoken(Enum):
    """What answered."""

    HTTP2 = auto()  # as gRPC does
    HTTP1 = auto()
    TLS = auto()
    OTHER = auto()  # or nothing


def probe(place: Place) -> Spoken:
    """What is spoken there to a client without TLS.

    Raises:
        OSError: Nobody can be reached there.
    """
    with socket.create_connection(place, STEP_S) as connection:
        spoken = _greet(connection)
    if spoken is Spoken.OTHER:
        anyone = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        anyone.check_hostname, anyone.verify_mode = False, ssl.CERT_NONE
        try:
            with closing(_shake_hands(place, anyone)):
                return Spoken.TLS
        except OSError:
            return Spoken.OTHER
    return spoken


def probe_in_tls(place: Place, context: ssl.SSLContext) -> Spoken:
    """What is spoken there once a TLS handshake has gone well.

    Raises:
        ssl.SSLError: The handshake failed.
        OSError: Nobody can be reached there.
    """
    with closing(_shake_hands(place, context)) as connection:
        return _greet(connection)


def _shake_hands(place: Place, context: ssl.SSLContext) -> ssl.SSLSocket:
    context.set_alpn_protocols(["h2"])
    connection = socket.create_connection(place, STEP_S)
    try:
        return context.wrap_socket(connection, server_hostname=place[0])
    except BaseException:
        connection.close()
        raise


def _greet(connection: socket.socket) -> Spoken:
    try:
        connection.sendall(PREFACE)
        head = connection.recv(len(PREFACE))
    except OSError:
        return Spoken.OTHER
    if head.startswith((b"HTTP/", b"<")):  # a page alone is what servers of HTTP/0.9 answer
        return Spoken.HTTP1
    return Spoken.HTTP2 if head[3:4] == bytes([SETTINGS]) else Spoken.OTHER
