"""What counts as one caller where nobody has a key."""

from ipaddress import IPv6Address, IPv6Network

from cutout_common import forwarded

# Whoever has one address of IPv6 has all of its network, as a rule.
_IPV6_PREFIX = 64


def party(peer: str) -> str:
    """The address that a call comes from, or its network of IPv6 addresses; other kinds of peers as they are.

    Args:
        peer: In gRPC's notation, with or without a port.
    """
    kind, _, rest = peer.partition(":")
    address = forwarded.address(rest) if kind in {"ipv4", "ipv6"} else ""
    if ":" in address:
        return str(IPv6Network((int(IPv6Address(address)), _IPV6_PREFIX), strict=False))
    return address or peer
