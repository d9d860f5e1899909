"""Where a server is, as gRPC takes it. What gRPC would misunderstand is refused, with what was meant."""

import re

# https://github.com/grpc/grpc/blob/master/doc/naming.md; what is in these forms is for gRPC to check.
SCHEMES = ("unix", "unix-abstract", "vsock", "ipv4", "ipv6", "xds")
MAX_PORT = 65535

_PORT = f"its port is no number from 1 to {MAX_PORT}"
# The first that fits is what is wrong.
_FAULTS = (
    (r"$", "there is nothing"),
    (r".*\s", "it has a space"),
    (r"http://", "that is a web address, as the REST gateway has"),
    (r"https://", "that is a web address, as the REST gateway has; TLS is turned on apart from the address"),
    (r"[\w.+-]+://", "leave out what ends with ://"),
    (r".*[/?#]", "a gRPC server has no path"),
    (r".*@", "keys are given apart from the address"),
    (r"[^:]*$|\[[^\]]*\]$", "it has no port"),
    (r":\d*$", "it has no host"),
    (r"(?!\[[^\[\]]+\]:).*:.*:", "an IPv6 address is written in brackets, [::1]:50051"),
    (r"(?!.*:0*[1-9]\d{0,4}$)", _PORT),
)


def check(address: str) -> str:
    """The address, if it is "host:port", several of these with commas between them, or in another of gRPC's forms.

    Raises:
        ValueError: It is not; the text says what is.
    """
    if fault := next(filter(None, map(_fault, map(_bare, parts(address)))), ""):
        raise ValueError(f"expected the gRPC server's host:port, such as localhost:50051, got {address!r}: {fault}")
    return address


def parts(address: str) -> tuple[str, ...]:
    """Each server's of several; forms that gRPC alone reads are one."""
    return (address,) if _scheme(address) in SCHEMES else tuple(address.split(","))


def host_and_port(address: str) -> tuple[str, int] | None:
    """The parts of a checked address; None for forms that have others."""
    if _scheme(address) in SCHEMES:
        return None
    host, _, port = _bare(address).rpartition(":")
    return host.removeprefix("[").removesuffix("]"), int(port)


def unix_path(address: str) -> str:
    """The path of a Unix socket's address; empty for other forms."""
    return re.sub("^unix:(//)?", "", address) if _scheme(address) == "unix" else ""


def _scheme(address: str) -> str:
    return address.partition(":")[0]


def _bare(address: str) -> str:
    return re.sub(r"^dns:(//[^/]*/)?", "", address)


def _fault(address: str) -> str:
    if _scheme(address) in SCHEMES:
        return ""
    for pattern, meaning in _FAULTS:
        if re.match(pattern, address):
            return meaning
    return _PORT if int(address.rpartition(":")[2]) > MAX_PORT else ""
