"""The socket that the gateway listens on."""

import socket


def listen(host: str, port: int) -> socket.socket:
    """Binds a TCP socket.

    Args:
        host: A name, or an IPv4 or IPv6 address.
        port: 0 takes a free one.

    Raises:
        OSError: The address cannot be bound; the text names it.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # asyncio turns Nagle's algorithm off only where the protocol is named, and with it each answer takes 40 ms longer.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        raise OSError(f"cannot listen on {host}:{port}: {error.strerror}") from error
    listener.listen(2048)
    return listener
