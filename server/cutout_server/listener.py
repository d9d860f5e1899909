"""The gRPC server: what stands before every call, and how connections are kept."""

import grpc
from cutout_common.allowance import Allowance

from cutout_server.call_context import CallLog
from cutout_server.certificates import credentials
from cutout_server.exchange import Bounds
from cutout_server.interceptors import CallInterceptor
from cutout_server.parts import Parts, share_of_one
from cutout_server.places import Places
from cutout_server.settings import Settings

# For TLS and the first words of HTTP/2.
HANDSHAKE_MS = 20_000
PING_TIMEOUT_MS = 20_000
# gRPC holds clients to its bounds on headers and streams once they have acknowledged them, which takes a round trip.
# Whoever does not is given up after so long, and its headers with it; gRPC itself waits a minute.
ACKNOWLEDGE_MS = 10_000


def grpc_server(settings: Settings, parts: Parts) -> grpc.aio.Server:
    """A server without services and ports; every call goes through one interceptor."""
    received = Allowance(settings.max_received_bytes, share_of_one(settings, settings.max_received_bytes))
    answers = Allowance(settings.max_answer_bytes, share_of_one(settings, settings.max_answer_bytes))
    parts.metrics.bytes_in_hand("messages", lambda: received.in_use)
    parts.metrics.bytes_in_hand("answers", lambda: answers.in_use)
    interceptor = CallInterceptor(
        parts.auth,
        parts.drain,
        (CallLog(), parts.metrics),
        parts.tracer,
        trusted_proxies=settings.trusted_proxies,
        default_deadline_s=settings.default_deadline_s,
        max_deadline_s=settings.max_deadline_s,
        bounds=Bounds(received, answers, settings.max_message_bytes, settings.max_stall_s),
        places=Places("calls", settings.max_calls, share_of_one(settings, settings.max_calls)),
        sessions=Places("sessions", settings.max_sessions, share_of_one(settings, settings.max_sessions)),
    )
    return grpc.aio.server(
        interceptors=[interceptor],
        options=[
            ("grpc.max_receive_message_length", settings.max_message_bytes),
            ("grpc.max_send_message_length", settings.max_message_bytes),
            # As RFC 9113, section 6.5.2 counts them. By default gRPC refuses some from half as many on, by chance.
            ("grpc.max_metadata_size", settings.max_header_bytes),
            ("grpc.absolute_max_metadata_size", settings.max_header_bytes),
            ("grpc.http2.settings_timeout", ACKNOWLEDGE_MS),
            ("grpc.max_concurrent_streams", settings.max_concurrent_streams),
            ("grpc.max_allowed_incoming_connections", settings.max_connections),
            # What comes unasked for, and is kept, of each call: gRPC's own bound grows to megabytes.
            ("grpc.http2.bdp_probe", 0),
            ("grpc.server_handshake_timeout_ms", HANDSHAKE_MS),
            # The third ping in a row that comes too soon ends a connection. gRPC's own bounds, five minutes with a
            # call and two hours without, would end the idle sessions of clients that ping as often as usual.
            ("grpc.http2.min_ping_interval_without_data_ms", round(settings.min_ping_interval_s * 1000)),
            ("grpc.keepalive_permit_without_calls", 1),
            ("grpc.keepalive_time_ms", round(settings.ping_interval_s * 1000)),
            ("grpc.keepalive_timeout_ms", PING_TIMEOUT_MS),
            *_connection_age(settings),
            # Two servers on one port would share its calls in silence.
            ("grpc.so_reuseport", 0),
        ],
    )


def read_certificate(settings: Settings) -> grpc.ServerCredentials | None:
    """The server's certificate; None when it serves plain text.

    Raises:
        ConfigError: A file cannot be read, or is none.
    """
    if settings.tls_cert is None or settings.tls_key is None:
        return None
    return credentials(settings.tls_cert, settings.tls_key, settings.tls_client_ca)


def bind(server: grpc.aio.Server, address: str, certificate: grpc.ServerCredentials | None) -> int:
    """Binds an address and returns its port.

    Raises:
        OSError: It cannot be had.
    """
    try:
        if certificate is None:
            return server.add_insecure_port(address)
        return server.add_secure_port(address, certificate)
    except RuntimeError as error:
        raise OSError(f"cannot listen on {address}: {error}") from error


def _connection_age(settings: Settings) -> list[tuple[str, int]]:
    """How long connections last, as gRPC takes it, which spreads them by a tenth; nothing when they last."""
    if not settings.max_connection_age_s:
        return []
    return [
        ("grpc.max_connection_age_ms", round(settings.max_connection_age_s * 1000)),
        ("grpc.max_connection_age_grace_ms", round(settings.max_connection_age_grace_s * 1000)),
    ]
