"""Fetches a picture that a caller named, without becoming the caller's way into the operator's network.

The host is resolved here, every address is looked at, and the connection goes to an address that passed: what the name
means a moment later (DNS rebinding) no longer matters. Redirects are followed by hand, each checked like the first.
"""

import asyncio
import functools
import re
import ssl
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import httpx
from cutout_common import __version__

from cutout_server.errors import InvalidRequestError, PermissionDeniedError
from cutout_server.images.addresses import is_public

# Host and port to addresses, as text.
Resolver = Callable[[str, int], Awaitable[list[str]]]

FIELD = "image.uri"
MAX_REDIRECTS = 3
_MAX_URI_LENGTH = 2048
_HOST = re.compile(r"[\w.:-]+", re.ASCII)
_PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True)
class FetchPolicy:
    """What may be fetched.

    Attributes:
        allowed_hosts: The only host names, lower case; empty means any.
        max_bytes: Bound on the file.
        timeout_s: Time for everything, redirects included.
        ports: The only ports.
        allow_private: Whether addresses that are not public are allowed.
    """

    allowed_hosts: tuple[str, ...] = ()
    max_bytes: int = 32 * 1024 * 1024
    timeout_s: float = 10.0
    ports: tuple[int, ...] = (80, 443)
    allow_private: bool = False


async def resolve_host(host: str, port: int) -> list[str]:
    """The addresses that the system's resolver knows of.

    Raises:
        OSError: There are none.
    """
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=1)  # SOCK_STREAM
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


async def fetch(uri: str, policy: FetchPolicy, *, resolve: Resolver = resolve_host) -> bytes:
    """Fetches a file over http or https.

    Neither proxies nor credentials of the environment are used, cookies are not kept, and compressed answers are
    refused.

    Args:
        uri: Its address.
        policy: What may be fetched.
        resolve: Finds the addresses of a host.

    Raises:
        InvalidRequestError: The address is not one, nothing useful is there, or it is larger than allowed.
        PermissionDeniedError: The policy does not allow the host, its port, or any of its addresses.
    """
    try:
        async with asyncio.timeout(policy.timeout_s):
            for _ in range(MAX_REDIRECTS + 1):
                answer = await _get(_parse(uri, policy), policy, resolve)
                if isinstance(answer, bytes):
                    return answer
                uri = answer
    except TimeoutError as error:
        raise _unavailable(f"the picture did not arrive within {policy.timeout_s:g} s") from error
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise _unavailable("the connection failed") from error
    raise _unavailable(f"more than {MAX_REDIRECTS} redirects")


def _parse(uri: str, policy: FetchPolicy) -> httpx.URL:
    try:
        url = httpx.URL(uri)
        host = url.raw_host.decode("ascii")
        port = url.port or _PORTS.get(url.scheme, 0)
    except (httpx.InvalidURL, UnicodeError, ValueError) as error:
        raise InvalidRequestError.of(FIELD, "expected an http or https address") from error
    if url.scheme not in _PORTS or not _HOST.fullmatch(host) or not 0 < port < 65536 or len(uri) > _MAX_URI_LENGTH:
        raise InvalidRequestError.of(
            FIELD, f"expected an http or https address of at most {_MAX_URI_LENGTH} characters"
        )
    if url.userinfo:
        raise InvalidRequestError.of(FIELD, "expected an address without user name and password")
    if port not in policy.ports:
        raise _forbidden(f"port {port} is not allowed; expected one of {', '.join(map(str, policy.ports))}")
    if policy.allowed_hosts and host.lower() not in policy.allowed_hosts:
        raise _forbidden(f"{host} is not among the allowed hosts")
    return url


async def _get(url: httpx.URL, policy: FetchPolicy, resolve: Resolver) -> bytes | str:
    """The file, or where it has moved."""
    host = url.raw_host.decode("ascii")
    try:
        addresses = await resolve(host, url.port or _PORTS[url.scheme])
    except (OSError, UnicodeError) as error:
        raise _unavailable(f"the host {host} is not known") from error
    allowed = [address for address in addresses if policy.allow_private or is_public(address)]
    if not allowed:
        raise _forbidden(f"{host} has no public address")
    for address in allowed[:-1]:
        try:
            return await _get_from(address, url, policy)
        except httpx.ConnectError:
            continue
    return await _get_from(allowed[-1], url, policy)


async def _get_from(address: str, url: httpx.URL, policy: FetchPolicy) -> bytes | str:
    headers = {
        "Host": url.netloc.decode("ascii"),
        "User-Agent": f"cutout/{__version__}",
        "Accept": "image/*",
        "Accept-Encoding": "identity",
    }
    # The certificate has to be the name's, although the connection goes to the address.
    extensions = {"sni_hostname": url.raw_host.decode("ascii")}
    pinned = url.copy_with(host=address)
    async with (
        httpx.AsyncClient(verify=await asyncio.to_thread(_tls), trust_env=False, timeout=policy.timeout_s) as client,
        client.stream("GET", pinned, headers=headers, extensions=extensions) as response,
    ):
        if response.has_redirect_location:
            return str(url.join(response.headers["location"]))
        if response.status_code != httpx.codes.OK:
            raise _unavailable(f"the host answered {response.status_code}")
        if response.headers.get("content-encoding", "identity") != "identity":
            raise _unavailable("the host answered in a compressed form")
        return await _read(response, policy.max_bytes)


async def _read(response: httpx.Response, max_bytes: int) -> bytes:
    content = bytearray()
    declared = response.headers.get("content-length", "")
    if not (declared.isdecimal() and int(declared) > max_bytes):
        async for chunk in response.aiter_raw():
            content += chunk
            if len(content) > max_bytes:
                break
        else:
            return bytes(content)
    raise InvalidRequestError.of(FIELD, f"expected at most {max_bytes:,} bytes, got more", reason="IMAGE_TOO_LARGE")


@functools.cache
def _tls() -> ssl.SSLContext:
    return httpx.create_ssl_context(trust_env=False)


def _unavailable(what: str) -> InvalidRequestError:
    return InvalidRequestError.of(FIELD, what, reason="URI_UNAVAILABLE")


def _forbidden(what: str) -> PermissionDeniedError:
    return PermissionDeniedError(f"{FIELD}: {what}", reason="URI_NOT_ALLOWED")
