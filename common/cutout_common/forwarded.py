"""Whose request it is when proxies stand in between: what they say is believed as far as they are trusted.

Each proxy adds the address that it was called from at the end of a header; what stands further left was there before,
and any caller can have written it. So the list is read from the right, up to the first that is no trusted proxy's.
"""

import ipaddress
import re
from collections.abc import Sequence
from typing import Literal

X_FORWARDED_FOR: Literal["x-forwarded-for"] = "x-forwarded-for"
"""The name of the usual header, and of the metadata by which the gateway tells the server."""
FORWARDED: Literal["forwarded"] = "forwarded"

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
# RFC 7239, section 4: pairs of a name and a token or quoted string, with semicolons between them.
_FOR = re.compile(r'(?:^|;)\s*for=(?:"([^"\\]*)"|([^;\s"]*))\s*(?=;|$)', re.IGNORECASE)
_WITH_PORT = re.compile(r"\[([^\]]*)\](?::\d+)?|([^:]*)(?::\d+)?")


def address(text: str) -> str:
    """An IP address in its usual form, without a port or zone; empty when it is none.

    Args:
        text: Such as `192.0.2.1`, `192.0.2.1:80`, `2001:db8::1` or `[2001:db8::1]:80`.
    """
    text = text.strip()
    if bare := _WITH_PORT.fullmatch(text):
        text = bare[1] or bare[2] or ""
    try:
        found = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return ""
    return str(getattr(found, "ipv4_mapped", None) or found)


def is_among(text: str, networks: Sequence[Network]) -> bool:
    """Whether an address, in the form of `address`, is in one of the networks."""
    return bool(text) and any(ipaddress.ip_address(text) in network for network in networks)


def caller(peer: str, header: str, values: Sequence[str], trusted: Sequence[Network]) -> str:
    """The address that a request comes from, in the form of `address`.

    Args:
        peer: Where the connection comes from, in the same form.
        header: What `values` are: X_FORWARDED_FOR or FORWARDED.
        values: The header's lines in their order.
        trusted: The proxies' networks.
    """
    found = peer
    for entry in reversed(",".join(values).split(",")):
        if not is_among(found, trusted):
            break
        said = address(_for(entry) if header == FORWARDED else entry)
        if not said:  # hidden, or no address: nothing further left can be believed
            break
        found = said
    return found


def _for(entry: str) -> str:
    match = _FOR.search(entry)
    return (match[1] or match[2] or "") if match else ""
