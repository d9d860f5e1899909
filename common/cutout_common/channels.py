"""How our clients and our gateway keep their connection to a server, as gRPC channel arguments."""

import asyncio
from typing import Any

PING_S = 30  # As often as we ping,
OFTEN_S = 10  # and where there are several servers; the server's bound on pings is never longer.

OPTIONS: tuple[tuple[str, int], ...] = (
    # The server bounds its answers; gRPC's own 4 MiB would only get in the way.
    ("grpc.max_receive_message_length", -1),
    # After an outage, however long, back within seconds. By default gRPC waits up to two minutes between two tries,
    # gives each one 20 s, and asks for the addresses behind a name every 30 s at most.
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.max_reconnect_backoff_ms", 2_000),
    ("grpc.min_reconnect_backoff_ms", 5_000),
    ("grpc.dns_min_time_between_resolutions_ms", 2_000),
    # A server that is gone without a word is noticed, and what forgets silent connections on the way does not.
    ("grpc.keepalive_time_ms", PING_S * 1_000),
    ("grpc.keepalive_timeout_ms", 20_000),
    # The bound above is on bytes that are not taken in, whoever asks; without this one an answer may take a minute.
    ("grpc.http2.ping_timeout_ms", 20_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),  # Without it gRPC stops after two pings of an idle session.
)
# Of several servers, one that takes in nothing for 5 s, or hangs, and so answers no ping for 10 s, is left for another.
_SOONER = {
    "grpc.keepalive_time_ms": OFTEN_S * 1_000,
    "grpc.keepalive_timeout_ms": 5_000,
    "grpc.http2.ping_timeout_ms": 10_000,
}
OF_MANY = tuple({**dict(OPTIONS), **_SOONER}.items())
# Metadata by which a caller asks to be told that it is let in before it sends what is large. The headers of our
# server's answer repeat it, and whoever only asks cancels the call then. HTTP's own words: RFC 9110, section 10.1.1.
ASK_FIRST = ("expect", "100-continue")

# While no server answers, a channel is made anew so often: of a name that was not known gRPC asks less and less often,
# every two minutes in the end, and no setting changes that.
RENEW_S = 5.0


async def retire(channel: Any) -> None:
    """Closes a channel of `grpc.aio` that was replaced, behind its last call: those of a draining server go on."""
    await asyncio.sleep(60)  # for calls that have taken it and not yet begun
    await channel.close(3600)
