"""HTTP as it is written on the wire: what is refused, below the application too, in one form; and what is not."""

import json
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import httpx
import pytest
from conftest import RunningServer, run_server
from cutout_common.status import ErrorDetails, unpack
from cutout_gateway import body
from cutout_gateway.settings import GatewaySettings
from gateway_fixtures import GatewayThread
from google.protobuf import json_format
from google.rpc.status_pb2 import Status
from probe_family import Probe, probe_family
from structlog.testing import capture_logs
from waiting import PATIENCE_S, wait_until

GET = b"GET /v1/models HTTP/1.1\r\n"
POST = b"POST /v1/segment:box HTTP/1.1\r\nHost: x\r\n"
HOST = b"Host: x\r\n"
BODY = b'{"image":{}}'
CHUNKED = b"Transfer-Encoding: chunked\r\n"
CHUNKS = b"\r\nc\r\n" + BODY + b"\r\n0\r\n\r\n"
LENGTH = b"Content-Length: 12\r\n"


@dataclass(frozen=True)
class Answer:
    """An answer as it came.

    Attributes:
        status: The HTTP status.
        headers: By their names in lower case.
        body: As long as Content-Length says.
    """

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def details(self) -> ErrorDetails:
        """Of an error."""
        return unpack(json_format.ParseDict(json.loads(self.body), Status()))


def read_answer(client: socket.socket, *, head: bool = False) -> Answer:
    """The next answer on a connection."""
    received = bytearray()
    while b"\r\n\r\n" not in received:
        received += client.recv(1)
    first, *lines = received.decode("latin-1").rstrip().split("\r\n")
    headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
    body = bytearray()
    while not head and len(body) < int(headers["content-length"]):
        body += client.recv(65536)
    return Answer(int(first.split()[1]), headers, bytes(body))


@pytest.fixture(scope="module")
def gateway(server: RunningServer) -> Iterator[GatewayThread]:
    with GatewayThread(GatewaySettings(server_address=server.address, max_body_bytes=2**20)) as running:
        yield running


@pytest.fixture
def client(gateway: GatewayThread) -> Iterator[socket.socket]:
    with socket.create_connection(("127.0.0.1", gateway.port), timeout=PATIENCE_S) as connected:
        yield connected


REFUSED: dict[str, tuple[bytes, int, str]] = {
    "unknown path": (b"GET /nope HTTP/1.1\r\n" + HOST + b"\r\n", 404, "PATH_NOT_FOUND"),
    "unknown page": (b"GET /docs/static/nope HTTP/1.1\r\n" + HOST + b"\r\n", 404, "PATH_NOT_FOUND"),
    "asterisk": (b"OPTIONS * HTTP/1.1\r\n" + HOST + b"\r\n", 404, "PATH_NOT_FOUND"),
    "authority": (b"CONNECT x:80 HTTP/1.1\r\n" + HOST + b"\r\n", 404, "PATH_NOT_FOUND"),
    "method": (b"PUT /v1/models HTTP/1.1\r\n" + HOST + b"\r\n", 405, "METHOD_NOT_ALLOWED"),
    "method of a page": (b"POST /docs HTTP/1.1\r\n" + HOST + b"Content-Length: 0\r\n\r\n", 405, "METHOD_NOT_ALLOWED"),
    "no host": (GET + b"\r\n", 400, "MALFORMED_HTTP"),
    "two hosts": (GET + HOST + HOST + b"\r\n", 400, "MALFORMED_HTTP"),
    "host with a space": (GET + b"Host: a b\r\n\r\n", 400, "INVALID_ARGUMENT"),
    "host in half a bracket": (b"GET /docs HTTP/1.1\r\nHost: [::1\r\n\r\n", 400, "INVALID_ARGUMENT"),
    "host with a path": (GET + b"Host: a/b\r\n\r\n", 400, "INVALID_ARGUMENT"),
    "escape in the query": (b"GET /v1/models?a=%zz HTTP/1.1\r\n" + HOST + b"\r\n", 400, "INVALID_ARGUMENT"),
    "byte in the query": (b"GET /v1/models?a=\xff HTTP/1.1\r\n" + HOST + b"\r\n", 400, "MALFORMED_HTTP"),
    "escape in the path": (b"GET /v1/models/%ff HTTP/1.1\r\n" + HOST + b"\r\n", 400, "INVALID_ARGUMENT"),
    "byte in the path": (b"GET /v1/mod\xc3\xa9ls HTTP/1.1\r\n" + HOST + b"\r\n", 400, "MALFORMED_HTTP"),
    "compressed": (POST + LENGTH + b"Content-Encoding: gzip\r\n\r\n" + BODY, 415, "UNSUPPORTED_MEDIA_TYPE"),
    "compressed twice": (
        POST + LENGTH + b"Content-Encoding: identity\r\nContent-Encoding: br\r\n\r\n" + BODY,
        415,
        "UNSUPPORTED_MEDIA_TYPE",
    ),
    "too large": (POST + b"Content-Length: 9999999\r\n\r\n", 413, "TOO_LARGE"),
    "two lengths": (POST + LENGTH + b"Content-Length: 13\r\n\r\n" + BODY, 400, "MALFORMED_HTTP"),
    "negative length": (POST + b"Content-Length: -1\r\n\r\n", 400, "MALFORMED_HTTP"),
    "transfer coding": (POST + b"Transfer-Encoding: gzip\r\n" + CHUNKS, 501, "MALFORMED_HTTP"),
    "chunk": (POST + CHUNKED + b"\r\nc\r\n" + BODY + b"\r\nno\r\n", 400, "MALFORMED_HTTP"),
    "length and chunks": (POST + LENGTH + CHUNKED + CHUNKS, 400, "INVALID_ARGUMENT"),
    "chunks and length": (POST + CHUNKED + LENGTH + CHUNKS, 400, "INVALID_ARGUMENT"),
    "chunks in HTTP/1.0": (POST.replace(b"1.1", b"1.0") + CHUNKED + CHUNKS, 400, "INVALID_ARGUMENT"),
    "long headers": (GET + HOST + b"A: " + b"x" * 300_000, 431, "MALFORMED_HTTP"),
    "TLS": (b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n", 400, "MALFORMED_HTTP"),
    "HTTP/2": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505, "HTTP_VERSION_NOT_SUPPORTED"),
    "no time": (GET + HOST + b"Grpc-Timeout: 0m\r\n\r\n", 504, "DEADLINE_EXCEEDED"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_every_refusal_has_one_form(name: str, client: socket.socket):
    """A google.rpc.Status as JSON with a reason and the request id, also in the header and in one line of the log."""
    sent, status, reason = REFUSED[name]
    with capture_logs() as logs:
        client.sendall(sent)
        answer = read_answer(client)
        client.close()
        own = ("request", answer.headers["x-request-id"])
        # Other gateways of this process log as well.
        lines = wait_until(lambda: [line for line in logs if (line["event"], line.get("request_id")) == own])
    assert (answer.status, answer.details.reason) == (status, reason), answer
    assert answer.headers["content-type"] == "application/json"
    assert answer.details.request_id == answer.headers["x-request-id"]
    assert [line["status"] for line in lines] == [status]
    said = json.loads(answer.body)["message"]
    assert said
    assert "bytearray" not in said


@pytest.mark.parametrize("first", [LENGTH + CHUNKED, CHUNKED + LENGTH])
def test_length_and_chunks_together_close_the_connection(first: bytes, client: socket.socket):
    """RFC 9112, section 6.1: nothing that follows is taken for another request."""
    client.sendall(POST + first + CHUNKS + GET + HOST + b"\r\n")
    assert read_answer(client).headers["connection"] == "close"
    assert client.recv(1000) == b""


def test_a_chunk_that_is_none_ends_an_upload(client: socket.socket):
    """A body that is passed on in pieces is told likewise, in the middle of it."""
    client.sendall(b"POST /v1/images HTTP/1.1\r\nHost: x\r\n" + CHUNKED + b"\r\n5\r\nhello\r\n")
    client.sendall(b"what?\r\n")
    answer = read_answer(client)
    assert (answer.status, answer.details.reason) == (400, "MALFORMED_HTTP")


def test_who_ends_its_side_is_not_waited_for(client: socket.socket, monkeypatch: pytest.MonkeyPatch):
    """What may still come after nonsense is dropped for a while, for clients that send all before they read."""
    monkeypatch.setattr(body, "LINGER_S", 2 * PATIENCE_S)
    client.sendall(GET + b"\r\n")
    client.shutdown(socket.SHUT_WR)
    assert read_answer(client).details.reason == "MALFORMED_HTTP"
    assert client.recv(1000) == b""


def test_nonsense_after_an_answer_is_refused_alone(client: socket.socket):
    """The request before it is answered as ever."""
    client.sendall(GET + HOST + b"\r\n")
    assert read_answer(client).status == 200
    client.sendall(b"nonsense\r\n\r\n")
    assert read_answer(client).details.reason == "MALFORMED_HTTP"


@pytest.mark.parametrize(
    "path", ["/v1/models", "/v1/models/builtin", "/v1/status", "/healthz", "/docs", "/openapi.json"]
)
def test_head_is_get_without_the_body(path: str, client: socket.socket):
    """The same status and headers; the connection goes on."""
    answers = []
    for method in ("GET", "HEAD", "GET"):
        client.sendall(f"{method} {path} HTTP/1.1\r\nHost: x\r\nX-Request-Id: mine\r\n\r\n".encode())
        answers.append(read_answer(client, head=method == "HEAD"))
    get, head, again = answers
    varies = {"date", *(["content-length"] if path == "/v1/status" else [])}
    assert head.status == get.status == again.status == 200
    assert {k: v for k, v in head.headers.items() if k not in varies} == {
        k: v for k, v in get.headers.items() if k not in varies
    }


def test_head_of_what_is_not_there(client: socket.socket):
    """An error has no body either, and 405 says that HEAD goes where GET does."""
    for path, status in (
        ("/v1/models/nobody", 404),
        ("/v1/images/nobody", 404),
        ("/nope", 404),
        ("/v1/segment:box", 405),
    ):
        client.sendall(f"HEAD {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        answer = read_answer(client, head=True)
        assert answer.status == status
        assert answer.headers.get("allow") == ("POST" if status == 405 else None)


def test_head_of_a_stored_picture(gateway: GatewayThread, photos):
    """A stream's headers come without the stream."""
    stored = httpx.post(f"{gateway.url}/v1/images", content=photos["chelsea"].jpeg, timeout=PATIENCE_S).json()[
        "imageId"
    ]
    answer = httpx.head(f"{gateway.url}/v1/images/{stored}", timeout=PATIENCE_S)
    assert (answer.status_code, answer.headers["content-type"], answer.content) == (200, "image/jpeg", b"")


@pytest.mark.parametrize("encoding", [b"IDENTITY", b"Identity", b"identity, identity", b""])
def test_a_body_as_it_is(encoding: bytes, client: socket.socket):
    """The names of content codings have no case (RFC 9110, section 8.4.1), and there may be none."""
    client.sendall(POST + LENGTH + b"Content-Encoding: " + encoding + b"\r\n\r\n" + BODY)
    assert {violation.field for violation in read_answer(client).details.violations} == {"boxes", "image"}


@pytest.mark.parametrize(
    ("target", "status"),
    [
        (b"http://x/v1/models", 200),
        (b"HTTP://other.example:8080/v1/models/builtin?", 200),
        (b"https://[::1]:80/healthz", 200),
        (b"http://x", 200),
        (b"http://x/v1/models?nope=1", 400),
        (b"http://a b/v1/models".replace(b" ", b"|"), 400),
        (b"http://x/http://x/v1/models", 404),
    ],
)
def test_targets_in_absolute_form(target: bytes, status: int, client: socket.socket):
    """RFC 9112, section 3.2.2: servers take them, as proxies send them."""
    client.sendall(b"GET " + target + b" HTTP/1.1\r\n" + HOST + b"\r\n")
    assert read_answer(client).status == status


def test_whose_deadline_it_was():
    """504 tells the time that the caller gave, or the gateway's own setting."""
    probe = Probe()
    request = {
        "image": {"tensor": {"width": 16, "height": 16, "channels": 3, "data": "A" * 1024}},
        "boxes": [{"xMax": 9, "yMax": 9}],
    }
    with probe_family(probe) as model, run_server(models=[model]) as server:
        settings = GatewaySettings(server_address=server.address, default_timeout_s=0.3)
        with GatewayThread(settings) as gateway:
            for headers, ours in (({}, "within 0.3 s"), ({"grpc-timeout": "200m"}, "within the 200m of Grpc-Timeout")):
                answer = httpx.post(f"{gateway.url}/v1/segment:box", json=request, headers=headers, timeout=PATIENCE_S)
                assert answer.status_code == 504
                details = unpack(json_format.ParseDict(answer.json(), Status()))
                assert (details.reason, details.request_id) == ("DEADLINE_EXCEEDED", answer.headers["x-request-id"])
                theirs = "the deadline that the call came with passed"
                assert ours in answer.text or theirs in answer.text  # Whichever end is first.
                assert "60 s" not in answer.text
        probe.gate.set()


def test_what_can_never_fit_is_no_invitation_to_come_back():
    """413, not 429: an answer beyond a message's bound, and a request beyond the server's."""
    probe = Probe()
    probe.gate.set()
    request: dict[str, Any] = {
        "image": {"tensor": {"width": 16, "height": 16, "channels": 3, "data": "A" * 1024}},
        "boxes": [{"xMax": 9, "yMax": 9}] * 64,
        "options": {"returnLogits": True},
    }
    with (
        probe_family(probe) as model,
        run_server(models=[model], max_message_bytes=2 * 2**20) as server,
        GatewayThread(GatewaySettings(server_address=server.address)) as gateway,
    ):
        answer = httpx.post(f"{gateway.url}/v1/segment:box", json=request, timeout=PATIENCE_S)
        assert (answer.status_code, answer.json()["details"][0]["reason"]) == (413, "ANSWER_TOO_LARGE")
        assert "/v1/segment:stream" in answer.json()["message"]
        assert "retry-after" not in answer.headers
        streamed = httpx.post(f"{gateway.url}/v1/segment:stream", json={"box": request}, timeout=PATIENCE_S)
        assert sum('"object":' in line for line in streamed.text.splitlines()) == 64
        request["image"] = {"content": "A" * 4 * 2**20}
        answer = httpx.post(f"{gateway.url}/v1/segment:box", json=request, timeout=PATIENCE_S)
        assert (answer.status_code, answer.json()["details"][0]["reason"]) == (413, "TOO_LARGE")
