"""Fetching from a real HTTP server, and from nowhere else."""

import asyncio
import contextlib
import gzip
import http.server
import ssl
import threading
import time

import httpx
import pytest
from certificates import self_signed
from cutout_server.errors import InvalidRequestError, PermissionDeniedError
from cutout_server.images import fetch as fetching
from cutout_server.images.fetch import FetchPolicy, fetch
from waiting import PATIENCE_S

PICTURE = bytes(range(256)) * 400


class Handler(http.server.BaseHTTPRequestHandler):
    """Answers /name by `send_name`."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *args):
        pass

    def do_GET(self):
        self.server.seen.append((self.path, dict(self.headers)))
        name = self.path[1:].split("?")[0]
        with contextlib.suppress(ConnectionError):
            getattr(self, f"send_{name}", self.send_missing)()

    def send(self, status, body=b"", **headers):
        self.send_response(status)
        for key, value in {"Content-Length": len(body), **headers}.items():
            self.send_header(key.replace("_", "-"), str(value))
        self.end_headers()
        self.wfile.write(body)

    def send_picture(self):
        self.send(200, PICTURE, Set_Cookie="session=1")

    def send_missing(self):
        self.send(404, b"not here")

    def send_redirect(self):
        self.send(302, Location=self.path.split("?", 1)[1], Set_Cookie="session=1")

    def send_again(self):
        self.send(302, Location="/again")

    def send_nowhere(self):
        self.send(302)

    def send_bomb(self):
        self.send(200, gzip.compress(bytes(50 << 20)), Content_Encoding="gzip")

    def send_chunked(self):
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for _ in range(100_000):
            self.wfile.write(b"4000\r\n" + bytes(0x4000) + b"\r\n")

    def send_liar(self):
        self.send_response(200)
        self.send_header("Content-Length", str(len(PICTURE)))
        self.end_headers()
        self.wfile.write(PICTURE[:-1])
        self.close_connection = True

    def send_drip(self):
        self.send_response(200)
        self.send_header("Content-Length", "100000")
        self.end_headers()
        for _ in range(100_000):
            self.wfile.write(b"x")
            self.wfile.flush()
            time.sleep(0.05)


class Server(http.server.ThreadingHTTPServer):
    """Remembers what was asked."""

    daemon_threads = True

    def handle_error(self, *args):
        """Callers that hang up early are what is tested here."""


@contextlib.contextmanager
def serving(tls=None):
    server = Server(("127.0.0.1", 0), Handler)
    server.seen = []
    if tls:
        server.socket = tls.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture
def server():
    with serving() as running:
        yield running


def policy_for(server, **changes):
    options = {
        "allow_private": True,
        "max_bytes": len(PICTURE),
        "timeout_s": PATIENCE_S,
        "ports": (server.server_port,),
    }
    return FetchPolicy(**options | changes)


def at(server, path, host="127.0.0.1"):
    return f"http://{host}:{server.server_port}/{path}"


def resolving(*addresses):
    """A resolver that gives these addresses, one answer after the other, and counts."""
    answers = list(addresses)

    async def resolve(host, port):
        resolve.asked.append(host)
        return answers.pop(0) if len(answers) > 1 else answers[0]

    resolve.asked = []
    return resolve


async def test_a_picture_is_fetched_byte_for_byte(server):
    """As the server sent it, whatever its size up to the bound."""
    assert await fetch(at(server, "picture"), policy_for(server)) == PICTURE


async def test_redirects_are_followed_without_cookies(server):
    """A relative and an absolute redirect arrive; what the first answer asked to be remembered is not sent back."""
    uri = at(server, f"redirect?/redirect?{at(server, 'picture')}")
    assert await fetch(uri, policy_for(server)) == PICTURE
    assert len(server.seen) == 3
    assert not any("Cookie" in headers for _, headers in server.seen)


async def test_the_connection_goes_to_the_address_that_was_checked(server):
    """The name is asked for once and kept in the Host header."""
    resolve = resolving(["127.0.0.1"])
    assert await fetch(at(server, "picture", "pictures.example"), policy_for(server), resolve=resolve) == PICTURE
    assert resolve.asked == ["pictures.example"]
    assert server.seen[0][1]["Host"] == f"pictures.example:{server.server_port}"


async def test_a_name_that_changes_its_address_is_checked_again(server, monkeypatch):
    """The first answer is public and redirects to the same name, which means another address by then."""
    monkeypatch.setattr(fetching, "is_public", lambda address: address == "127.0.0.1")
    policy = policy_for(server, allow_private=False)
    resolve = resolving(["127.0.0.1"], ["127.0.0.2"])
    with pytest.raises(PermissionDeniedError, match=r"image\.uri: rebound\.example has no public address"):
        await fetch(at(server, "redirect?/picture", "rebound.example"), policy, resolve=resolve)
    assert [path for path, _ in server.seen] == ["/redirect?/picture"]


async def test_a_redirect_to_another_port_is_refused(server):
    """Each hop is held to the policy like the first one."""
    with pytest.raises(PermissionDeniedError, match="port 22 is not allowed"):
        await fetch(at(server, "redirect?http://127.0.0.1:22/"), policy_for(server))
    with pytest.raises(InvalidRequestError, match="http or https"):
        await fetch(at(server, "redirect?file:///etc/passwd"), policy_for(server))


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1", "localhost", "0", "2130706433", "0x7f.1", "127.1", "[::1]", "[::ffff:127.0.0.1]", "[::]"],
)
async def test_loopback_is_refused_however_it_is_written(server, host):
    """The system's own resolver reads the host, and its answer is what is checked."""
    with pytest.raises((PermissionDeniedError, InvalidRequestError)) as caught:
        await fetch(at(server, "picture", host), policy_for(server, allow_private=False))
    assert "image.uri" in caught.value.message
    assert server.seen == []


async def test_only_the_public_addresses_of_a_host_are_tried(server):
    """A private one beside them is passed over."""
    tried = []

    async def refuse(address, url, policy):
        tried.append(address)
        raise httpx.ConnectError("refused")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fetching, "_get_from", refuse)
        with pytest.raises(InvalidRequestError, match="the connection failed"):
            await fetch(
                "http://a.example/", FetchPolicy(), resolve=resolving(["10.0.0.1", "8.8.8.8", "2606:4700::1111"])
            )
    assert tried == ["8.8.8.8", "2606:4700::1111"]


async def test_the_next_address_is_tried_when_one_does_not_answer(server):
    """As browsers do."""
    closed = resolving(["127.0.0.9", "127.0.0.1"])
    assert await fetch(at(server, "picture", "two.example"), policy_for(server), resolve=closed) == PICTURE


@pytest.mark.parametrize(
    "uri",
    [
        "",
        "picture.png",
        "//host/picture",
        "ftp://host/picture",
        "file:///etc/passwd",
        "gopher://host/",
        "data:image/png;base64,AAAA",
        "http://",
        "http:///picture",
        "http://host:99999/",
        "http://user:secret@host/",
        "http://user@host/",
        "http://ho st/",
        "http://[::1/",
        "http://host/\x00",
        "http://" + "a" * 3000 + "/",
        "http://host/" + "a" * 3000,
    ],
)
async def test_what_is_not_an_address_is_refused(uri):
    """Without asking anybody for anything."""
    resolve = resolving(["8.8.8.8"])
    with pytest.raises(InvalidRequestError) as caught:
        await fetch(uri, FetchPolicy(), resolve=resolve)
    assert [violation.field for violation in caught.value.violations] == ["image.uri"]
    assert resolve.asked == []


async def test_only_allowed_hosts_and_ports_are_asked():
    """Names are compared without case, and not by their ends."""
    policy = FetchPolicy(allowed_hosts=("pictures.example",))
    resolve = resolving([])
    for host in ("other.example", "evil-pictures.example", "pictures.example.evil", "sub.pictures.example"):
        with pytest.raises(PermissionDeniedError, match="not among the allowed hosts"):
            await fetch(f"https://{host}/", policy, resolve=resolve)
    with pytest.raises(PermissionDeniedError, match="port 8080 is not allowed; expected one of 80, 443"):
        await fetch("https://pictures.example:8080/", policy, resolve=resolve)
    assert resolve.asked == []
    with pytest.raises(PermissionDeniedError, match="no public address"):
        await fetch("https://PICTURES.example/", policy, resolve=resolve)


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("missing", "the host answered 404"),
        ("again", "more than 3 redirects"),
        ("nowhere", "the host answered 302"),
        ("bomb", "compressed"),
        ("liar", "the connection failed"),
        ("chunked", "expected at most 102,400 bytes"),
    ],
)
async def test_useless_answers_are_refused(server, path, message):
    """Errors, loops, bombs, torn and endless bodies."""
    with pytest.raises(InvalidRequestError, match=rf"image\.uri: .*{message}"):
        await fetch(at(server, path), policy_for(server))


async def test_a_declared_size_is_believed_when_it_is_too_large(server):
    """One byte more than allowed is not read at all."""
    with pytest.raises(InvalidRequestError, match="expected at most") as caught:
        await fetch(at(server, "picture"), policy_for(server, max_bytes=len(PICTURE) - 1))
    assert caught.value.reason == "IMAGE_TOO_LARGE"


async def test_slow_hosts_are_given_up(server):
    """The time is for everything: a byte now and then does not stretch it."""
    with pytest.raises(InvalidRequestError, match=r"did not arrive within 0\.3 s"):
        await fetch(at(server, "drip"), policy_for(server, timeout_s=0.3))


async def test_a_resolver_that_hangs_or_fails_is_given_up():
    """Within the same time, as the caller's error."""

    async def hang(host, port):
        await asyncio.Event().wait()

    with pytest.raises(InvalidRequestError, match="did not arrive"):
        await fetch("http://a.example/", FetchPolicy(timeout_s=0.05), resolve=hang)

    async def fail(host, port):
        raise OSError("no such host")

    with pytest.raises(InvalidRequestError, match=r"the host a\.example is not known"):
        await fetch("http://a.example/", FetchPolicy(), resolve=fail)


async def test_proxies_of_the_environment_are_not_used(server, monkeypatch):
    """A proxy would resolve the name again."""
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    assert await fetch(at(server, "picture"), policy_for(server)) == PICTURE


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    """A certificate for pictures.example alone."""
    folder = tmp_path_factory.mktemp("tls")
    self_signed(folder, "DNS:pictures.example")
    return folder


async def test_the_certificate_must_be_the_names(certificate, monkeypatch):
    """The address is connected to, the name is asked for and verified."""
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(certificate / "cert.pem", certificate / "key.pem")
    names = []
    tls.sni_callback = lambda _socket, name, _context: names.append(name)
    monkeypatch.setattr(fetching, "_tls", lambda: ssl.create_default_context(cafile=certificate / "cert.pem"))
    with serving(tls) as server:
        resolve = resolving(["127.0.0.1"])
        uri = f"https://pictures.example:{server.server_port}/picture"
        assert await fetch(uri, policy_for(server), resolve=resolve) == PICTURE
        with pytest.raises(InvalidRequestError, match="the connection failed"):
            await fetch(uri.replace("pictures", "other"), policy_for(server), resolve=resolve)
    assert names == ["pictures.example", "other.example"]
