"""Special addresses are refused before anything is sent, whatever the interpreter thinks; public ones are not."""

import ipaddress

import httpx
import pytest
from cutout_server.errors import PermissionDeniedError
from cutout_server.images.addresses import is_public
from cutout_server.images.fetch import FetchPolicy, fetch

# IANA's registries of special-purpose addresses for IPv4 and IPv6, line by line, and multicast.
REGISTRY_V4 = """0.0.0.0/8 0.0.0.0/32 10.0.0.0/8 100.64.0.0/10 127.0.0.0/8 169.254.0.0/16 172.16.0.0/12 192.0.0.0/24
192.0.0.0/29 192.0.0.8/32 192.0.0.9/32 192.0.0.10/32 192.0.0.170/32 192.0.0.171/32 192.0.2.0/24 192.31.196.0/24
192.52.193.0/24 192.88.99.0/24 192.88.99.2/32 192.168.0.0/16 192.175.48.0/24 198.18.0.0/15 198.51.100.0/24
203.0.113.0/24 240.0.0.0/4 255.255.255.255/32 224.0.0.0/4"""
REGISTRY_V6 = """::1/128 ::/128 ::ffff:0:0/96 64:ff9b:1::/48 100::/64 100:0:0:1::/64 2001::/23 2001::/32 2001:1::1/128
2001:1::2/128 2001:1::3/128 2001:2::/48 2001:3::/32 2001:4:112::/48 2001:10::/28 2001:20::/28 2001:30::/28
2001:db8::/32 2002::/16 2620:4f:8000::/48 3fff::/20 5f00::/16 fc00::/7 fe80::/10 ff00::/8"""
NETWORKS = [ipaddress.ip_network(text) for text in f"{REGISTRY_V4} {REGISTRY_V6}".split()]
METADATA = {
    "most clouds": "169.254.169.254",
    "containers of AWS": "169.254.170.2",
    "AWS": "fd00:ec2::254",
    "Azure": "168.63.129.16",
    "Google": "fd20:ce::254",
    "Oracle": "192.0.0.192",
    "Alibaba": "100.100.100.200",
    "Tencent": "169.254.0.23",
    "Scaleway": "fd00:42::42",
}
OTHERS = "::127.0.0.1 ::8.8.8.8 ::ffff:8.8.8.8 ::ffff:0:8.8.8.8 fec0::1 3ffe::1 4000::1 nonsense fe80::1%eth0"
PUBLIC = """1.1.1.1 8.8.8.8 9.255.255.255 11.0.0.0 93.184.215.14 100.63.255.255 100.128.0.0 126.255.255.255 128.0.0.0
168.63.129.15 168.63.129.17 169.253.255.255 169.255.0.0 172.15.255.255 172.32.0.0 191.255.255.255 192.0.1.0 192.0.3.0
192.31.195.255 192.31.197.0 192.52.192.255 192.52.194.0 192.88.98.255 192.88.100.0 192.167.255.255 192.169.0.0
192.175.47.255 192.175.49.0 198.17.255.255 198.20.0.0 198.51.99.255 198.51.101.0 203.0.112.255 203.0.114.0
223.255.255.255 2000::1 2001:200::1 2001:db7:ffff::1 2001:db9::1 2003::1 2606:4700:4700::1111 2620:4f:7fff::1
2620:4f:8001::1 2a00:1450:4001::200e 3fff:1000::1 64:ff9b::808:808"""


def inside(network: ipaddress.IPv4Network | ipaddress.IPv6Network) -> set[str]:
    """Its first, last and middle address."""
    return {str(network[at]) for at in (0, network.num_addresses // 2, -1)}


def behind_nat64(address: str) -> str:
    return str(ipaddress.IPv6Address(int(ipaddress.IPv6Address("64:ff9b::")) + int(ipaddress.IPv4Address(address))))


SPECIAL = sorted(
    {address for network in NETWORKS for address in inside(network)} | {*METADATA.values()} | {*OTHERS.split()}
)
TRANSLATED = [behind_nat64(address) for address in SPECIAL if "." in address and ":" not in address]
# What 6to4 and Teredo make of an address: these lead to it (RFC 3056; RFC 4380, where it is turned inside out).
TUNNELLED = [
    tunnel
    for address in (*SPECIAL, *PUBLIC.split())
    if "." in address and ":" not in address
    for tunnel in (
        str(ipaddress.IPv6Address(0x2002 << 112 | int(ipaddress.IPv4Address(address)) << 80)),
        str(ipaddress.IPv6Address(0x20010000 << 96 | int(ipaddress.IPv4Address(address)) ^ 0xFFFFFFFF)),
    )
]


@pytest.fixture
def no_packets(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails as soon as anything is about to be sent."""
    monkeypatch.setattr(httpx.AsyncClient, "stream", lambda *_, **__: pytest.fail("a connection was tried"))


async def test_special_addresses_are_refused_one_by_one(no_packets: None) -> None:
    """First, middle and last of every registered network, metadata services, and all of them in disguise."""
    for address in (*SPECIAL, *TRANSLATED, *TUNNELLED):

        async def resolve(host: str, port: int, found: str = address) -> list[str]:
            return [found]

        assert not is_public(address), address
        with pytest.raises(PermissionDeniedError, match="no public address"):
            await fetch("https://pictures.example/cat.jpg", FetchPolicy(), resolve=resolve)


def test_public_addresses_are_public() -> None:
    """Among them the neighbours of every special network, and what a translator leads to."""
    for address in PUBLIC.split():
        assert is_public(address), address
        if "." in address:
            assert is_public(behind_nat64(address))


def test_the_interpreters_table_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """It differs from version to version."""
    for kind in (ipaddress.IPv4Address, ipaddress.IPv6Address):
        for name in ("is_global", "is_private", "is_reserved", "is_multicast", "is_link_local", "is_loopback"):
            monkeypatch.setattr(kind, name, property(lambda _: pytest.fail("asked")))
    assert is_public("8.8.8.8")
    assert not is_public("10.0.0.1")
    assert is_public("2606:4700::1111")
    assert not is_public("fd00::1")


@pytest.mark.parametrize("address", METADATA.values(), ids=METADATA)
async def test_redirects_to_metadata_are_refused(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A public host that sends the server on to a cloud's own services is not followed."""
    asked: list[str] = []

    async def answer(found: str, url: httpx.URL, policy: FetchPolicy) -> str:
        asked.append(found)
        return "http://metadata.example/latest"

    async def resolve(host: str, port: int) -> list[str]:
        return [address if host == "metadata.example" else "8.8.8.8"]

    monkeypatch.setattr("cutout_server.images.fetch._get_from", answer)
    with pytest.raises(PermissionDeniedError, match="no public address"):
        await fetch("https://pictures.example/cat.jpg", FetchPolicy(), resolve=resolve)
    assert asked == ["8.8.8.8"]
