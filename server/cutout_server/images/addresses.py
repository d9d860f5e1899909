"""Which IP addresses anybody on the internet may be sent to: by a table of our own.

The interpreter's table changes with its version, and calls some addresses global that lead to a cloud's own services.
These are the networks of IANA's registries of special-purpose addresses (RFC 6890 and its updates), whether they call
them globally reachable or not: nobody serves pictures from any of them.
"""

import ipaddress
from typing import Final

_SPECIAL_V4: Final = tuple(
    map(
        ipaddress.IPv4Network,
        (
            "0.0.0.0/8",  # This network
            "10.0.0.0/8",  # Private
            "100.64.0.0/10",  # Shared by a carrier's customers; Alibaba's metadata
            "127.0.0.0/8",  # Loopback
            "168.63.129.16/32",  # In no registry: Azure's platform, DNS and metadata among it
            "169.254.0.0/16",  # Link-local; most clouds' metadata
            "172.16.0.0/12",  # Private
            "192.0.0.0/24",  # Protocol assignments; Oracle's metadata
            "192.0.2.0/24",  # Documentation
            "192.31.196.0/24",  # AS112
            "192.52.193.0/24",  # Automatic multicast tunnelling
            "192.88.99.0/24",  # 6to4 relays
            "192.168.0.0/16",  # Private
            "192.175.48.0/24",  # AS112
            "198.18.0.0/15",  # Benchmarking
            "198.51.100.0/24",  # Documentation
            "203.0.113.0/24",  # Documentation
            "224.0.0.0/4",  # Multicast
            "240.0.0.0/4",  # Reserved, broadcast
        ),
    )
)
# The only IPv6 space that is handed out for public use; everything else is special: unspecified, loopback, IPv4-mapped
# and -compatible, discard-only, segment routing, unique local (AWS's and Google's metadata), link-local, multicast.
_GLOBAL_UNICAST: Final = ipaddress.IPv6Network("2000::/3")
_SPECIAL_V6: Final = tuple(
    map(
        ipaddress.IPv6Network,
        (
            "2001::/23",  # Protocol assignments: Teredo, benchmarking, ORCHID, drones and others
            "2001:db8::/32",  # Documentation
            "2002::/16",  # 6to4
            "2620:4f:8000::/48",  # AS112
            "3ffe::/16",  # The 6bone, given back
            "3fff::/20",  # Documentation
        ),
    )
)
# IPv4 behind a translator (RFC 6052); its twin for local use, 64:ff9b:1::/48, may lead anywhere.
_NAT64: Final = ipaddress.IPv6Network("64:ff9b::/96")


def is_public(address: str) -> bool:
    """Whether it is none of the special ones.

    Args:
        address: As text; what is no address, or has a scope ("fe80::1%eth0"), is not public.
    """
    try:
        ip = ipaddress.ip_address(address)
    except ValueError:
        return False
    if isinstance(ip, ipaddress.IPv4Address):
        return not any(ip in network for network in _SPECIAL_V4)
    if ip in _NAT64:
        return is_public(str(ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)))
    return ip.scope_id is None and ip in _GLOBAL_UNICAST and not any(ip in network for network in _SPECIAL_V6)
