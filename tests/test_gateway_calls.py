"""Calls through the gateway: errors, streams, deadlines, headers, clients that leave or read slowly."""

import base64
import json
import re
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import grpc
import httpx
import pytest
from cutout_gateway.descriptors import Contract
from cutout_gateway.settings import MIB, GatewaySettings
from gateway_fixtures import EchoServer, GatewayThread
from grpc_health.v1 import health_pb2
from waiting import PATIENCE_S, settled, wait_until

from tools import free_port

# The table of grpc-gateway's runtime.HTTPStatusFromCode.
HTTP_OF_CODE = {
    "CANCELLED": 499,
    "UNKNOWN": 500,
    "INVALID_ARGUMENT": 400,
    "DEADLINE_EXCEEDED": 504,
    "NOT_FOUND": 404,
    "ALREADY_EXISTS": 409,
    "PERMISSION_DENIED": 403,
    "RESOURCE_EXHAUSTED": 429,
    "FAILED_PRECONDITION": 400,
    "ABORTED": 409,
    "OUT_OF_RANGE": 400,
    "UNIMPLEMENTED": 501,
    "INTERNAL": 500,
    "UNAVAILABLE": 503,
    "DATA_LOSS": 500,
    "UNAUTHENTICATED": 401,
}
LIMITS = {"max_body_bytes": MIB, "max_upload_bytes": 2 * MIB}


@pytest.fixture(scope="module")
def gateway(shared_echo: EchoServer, echo_contract: Contract) -> Iterator[GatewayThread]:
    with GatewayThread(GatewaySettings(server_address=shared_echo.address, **LIMITS), echo_contract) as running:
        yield running


@pytest.fixture
def rest(echo: EchoServer, gateway: GatewayThread) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=gateway.url, timeout=PATIENCE_S) as client:
        yield client


def test_every_code_has_its_status(rest: httpx.Client):
    """Each gRPC code is answered with the HTTP status of the table and a google.rpc.Status."""
    assert {code.name for code in grpc.StatusCode} == {*HTTP_OF_CODE, "OK"}
    for code in set(grpc.StatusCode) - {grpc.StatusCode.OK}:
        number, text = code.value
        answer = rest.post("/v1/fail", json={"code": number, "message": f"{text} é"})
        assert answer.status_code == HTTP_OF_CODE[code.name]
        assert answer.headers["content-type"] == "application/json"
        assert answer.json() == {"code": number, "message": f"{text} é", "details": []}
        assert answer.headers.get("www-authenticate") == ("Bearer" if answer.status_code == 401 else None)


def test_error_details_are_json(rest: httpx.Client):
    """Details of known types are expanded with their @type, unknown ones kept in base64; RetryInfo is Retry-After."""
    answer = rest.post("/v1/fail", json={"code": 8, "message": "full", "detailed": True, "unknownDetail": True})
    info, bad_request, retry, unknown = answer.json()["details"]
    prefix = "type.googleapis.com/google.rpc."
    assert info == {"@type": f"{prefix}ErrorInfo", "reason": "WRONG", "domain": "echo", "metadata": {"k": "v"}}
    assert bad_request["@type"] == f"{prefix}BadRequest"
    assert bad_request["fieldViolations"][0].items() >= {"field": "a.b[0]", "description": "wrong"}.items()
    assert retry == {"@type": f"{prefix}RetryInfo", "retryDelay": "2.500s"}
    assert unknown == {"@type": "type.googleapis.com/nobody.Knows", "value": "AQI="}
    assert answer.status_code == 429
    assert answer.headers["retry-after"] == "3"


def test_error_metadata_becomes_headers(rest: httpx.Client):
    """Metadata that comes with an error is passed on, but for the request id, which is the caller's."""
    answer = rest.post("/v1/fail", json={"code": 5}, headers={"x-request-id": "mine"})
    assert answer.headers["grpc-metadata-x-extra"] == "1"
    assert answer.headers["x-request-id"] == "mine"
    assert "from-server" not in str(answer.headers)


def test_a_parameter_of_a_request_without_fields(gateway_url: str):
    """The refusal says that there is none."""
    answer = httpx.get(f"{gateway_url}/v1/models", params={"x": "1"}, timeout=PATIENCE_S)
    assert answer.status_code == 400
    assert answer.json()["message"].endswith("has no field 'x'; it has none")


def test_unknown_paths_and_methods(rest: httpx.Client):
    """404 for an unknown path, 405 with Allow for a wrong method, on our own pages as well; each a Status."""
    for method, path, status, allow in [
        ("GET", "/v1/nowhere", 404, None),
        ("DELETE", "/v1/things/a", 405, "GET, HEAD, LOCK, PATCH, PUT"),
        ("POST", "/healthz", 405, "GET, HEAD"),
        ("GET", "/docs/static/nowhere.js", 404, None),
    ]:
        answer = rest.request(method, path)
        assert answer.status_code == status
        assert answer.headers.get("allow") == allow
        assert answer.json()["code"] == {404: 5, 405: 12}[status]
        assert answer.headers["x-request-id"]


def test_headers_both_ways(rest: httpx.Client, echo: EchoServer):
    """Credentials, trace, request id and Grpc-Metadata-* go to the server; its metadata comes back as headers."""
    answer = rest.get(
        "/v1/metadata",
        headers={
            "Authorization": "Bearer t",
            "X-Api-Key": "k",
            "X-Request-Id": "my-id",
            "Traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "Tracestate": "a=b",
            "Grpc-Metadata-Foo": "bar",
            "Grpc-Metadata-Blob-Bin": base64.b64encode(b"\x00\xff").decode(),
            "Grpc-Timeout": "7S",
            "Cookie": "secret=1",
        },
    )
    pairs = dict(text.split("=", 1) for text in answer.json()["texts"])
    del pairs["user-agent"]
    assert pairs == {
        "authorization": "Bearer t",
        "x-api-key": "k",
        "x-request-id": "my-id",
        "x-forwarded-for": "127.0.0.1",
        "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        "tracestate": "a=b",
        "foo": "bar",
        "blob-bin": "00ff",
    }
    assert echo.deadline_s == pytest.approx(7, abs=1)
    assert answer.headers["x-request-id"] == "my-id"
    assert answer.headers["grpc-metadata-x-first"] == "one"
    assert answer.headers["grpc-metadata-x-blob-bin"] == "AP8="
    assert answer.headers["grpc-metadata-x-last"] == "two"


@pytest.mark.parametrize("given", ["", "a b", "x" * 129, "é".encode()])
def test_request_ids_that_cannot_be_used_are_replaced(rest: httpx.Client, given: str | bytes):
    """An id that would not fit into a log line or into metadata is replaced; errors carry one as well."""
    answer = rest.get("/v1/nowhere", headers={"x-request-id": given})
    assert re.fullmatch(r"[0-9a-f]{32}", answer.headers["x-request-id"])


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("Grpc-Timeout", "soon"),
        ("Grpc-Timeout", "123456789S"),
        ("Grpc-Timeout", "1s"),
        ("Grpc-Metadata-Grpc-Status", "0"),
        ("Grpc-Metadata-X-Request-Id", "other"),
        ("Grpc-Metadata-Content-Type", "text/html"),
        ("Grpc-Metadata-X~", "1"),
        ("Grpc-Metadata-X-Bin", "***"),
        ("Grpc-Metadata-X", "é".encode()),
        ("X-Api-Key", "é".encode()),
    ],
)
def test_bad_headers_are_named(rest: httpx.Client, name: str, value: str | bytes):
    """A header that cannot be passed on is refused by name, not dropped."""
    answer = rest.get("/v1/metadata", headers={name: value})
    assert answer.status_code == 400
    assert answer.json()["details"][1]["fieldViolations"][0]["field"].lower() == name.lower()


def test_grpc_timeout_is_a_deadline(rest: httpx.Client):
    """The call ends with 504 when the time is up."""
    answer = rest.get("/v1/sleep", headers={"grpc-timeout": "200m"})
    assert answer.status_code == 504
    assert answer.json()["code"] == 4


@pytest.mark.parametrize(("given", "status"), [("0S", 504), ("0n", 504), ("99999999H", 200), ("99999999u", 200)])
def test_deadlines_at_the_ends_of_the_range(rest: httpx.Client, given: str, status: int):
    """No time at all is over at once; eleven thousand years are enough."""
    assert rest.get("/v1/things/a", headers={"grpc-timeout": given}).status_code == status


def test_the_default_timeout_is_a_deadline(echo: EchoServer, echo_contract: Contract):
    """A call that brings no deadline gets the setting's."""
    settings = GatewaySettings(server_address=echo.address, default_timeout_s=0.2)
    with GatewayThread(settings, echo_contract) as gateway:
        assert httpx.get(f"{gateway.url}/v1/sleep", timeout=PATIENCE_S).status_code == 504


def test_ndjson(rest: httpx.Client):
    """A stream is one JSON object a line."""
    answer = rest.get("/v1/stream?messages=3&size=2")
    assert answer.headers["content-type"] == "application/x-ndjson"
    lines = [json.loads(line) for line in answer.text.splitlines()]
    assert [line["result"]["number"] for line in lines] == [0, 1, 2]
    assert rest.get("/v1/stream").content == b""


def test_a_stream_that_fails_at_once_is_an_error(rest: httpx.Client):
    """Before the first message a failure has its own HTTP status."""
    answer = rest.get("/v1/stream?messages=3&failAfter=0")
    assert (answer.status_code, answer.json()["code"]) == (409, 10)
    assert rest.get("/v1/raw:stream?messages=3&failAfter=0").status_code == 409


def test_a_stream_that_fails_later_ends_with_the_error(rest: httpx.Client):
    """After the first message a failure is the last line, and says how many came before."""
    answer = rest.get("/v1/stream?messages=3&failAfter=2")
    lines = [json.loads(line) for line in answer.text.splitlines()]
    assert [*lines[0], *lines[1], *lines[2]] == ["result", "result", "error"]
    message = "overtaken; the answer broke off after 2 of its parts"
    assert lines[2] == {"error": {"code": 10, "message": message, "details": []}}


def test_raw_streams(rest: httpx.Client):
    """Raw pieces follow each other without a delimiter, under the content type of the first."""
    answer = rest.get("/v1/raw:stream?messages=3&size=2")
    assert answer.headers["content-type"] == "image/x-first"
    assert answer.content == b"\x00\x00\x01\x01\x02\x02"


def test_a_raw_stream_that_fails_later_breaks_off(rest: httpx.Client):
    """A client can tell a part from the whole: the connection ends without the end of the body."""
    with pytest.raises(httpx.RemoteProtocolError, match="incomplete"):
        rest.get("/v1/raw:stream?messages=3&size=2&failAfter=2")


def test_bodies_beyond_the_limit(rest: httpx.Client):
    """413 as a Status, whether Content-Length tells or the bytes do; the connection is answered, not reset."""
    big, huge = b"x" * (MIB + 1), b"x" * (2 * MIB + 1)
    for path, body in [("/v1/things", big), ("/v1/upload/n", huge), ("/v1/raw/n", big)]:
        for content in (body, iter([body[:1000], body[1000:]])):
            answer = rest.post(path, content=content)
            assert answer.status_code == 413, path
            assert answer.json()["details"][0]["reason"] == "TOO_LARGE"
    assert rest.post("/v1/raw/n", content=big[:MIB]).status_code == 200
    assert rest.post("/v1/upload/n", content=huge[: 2 * MIB]).status_code == 200


def test_a_client_that_asks_first_need_not_send(gateway: GatewayThread):
    """With `Expect: 100-continue` too large a body is refused before a byte of it is sent."""
    with socket.create_connection(("127.0.0.1", gateway.port), timeout=PATIENCE_S) as client:
        client.sendall(
            b"POST /v1/things HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999\r\nExpect: 100-continue\r\n\r\n"
        )
        assert client.recv(1000).startswith(b"HTTP/1.1 413")


def test_an_early_answer_to_an_upload(rest: httpx.Client, gateway: GatewayThread, echo: EchoServer):
    """A server that refuses after the first message is heard, though the client goes on sending."""
    refused, refuse = threading.Event(), echo.special["Upload"]

    def watched(requests, context):
        context.add_callback(refused.set)
        return refuse(requests, context)

    echo.replace("Upload", watched)

    def body() -> Iterator[bytes]:
        yield b"x" * MIB
        # grpc.aio forgets a refusal that crosses a message on its way (it says INTERNAL then). On the gateway's one
        # connection to the server, the answer to a later call comes behind the refusal.
        assert refused.wait(PATIENCE_S)
        httpx.get(f"{gateway.url}/v1/things/a", timeout=PATIENCE_S)
        yield b"x" * MIB

    answer = rest.post("/v1/upload/n?note=refuse", content=body())
    assert answer.status_code == 403


def test_a_client_that_leaves_cancels_the_call(gateway: GatewayThread, echo: EchoServer):
    """The server is told when the client of a unary call closes its connection."""
    with socket.create_connection(("127.0.0.1", gateway.port)) as client:
        client.sendall(b"GET /v1/sleep HTTP/1.1\r\nHost: x\r\n\r\n")
        assert echo.sleeping.wait(PATIENCE_S)
        assert not echo.cancelled.is_set()
    assert echo.cancelled.wait(PATIENCE_S)


def test_a_client_that_leaves_in_mid_upload_cancels_the_call(gateway: GatewayThread, echo: EchoServer):
    """An upload that breaks off is a cancelled call, not a short one."""
    arrived, ended, completed = threading.Event(), threading.Event(), threading.Event()

    def watched(requests, context):
        context.add_callback(ended.set)
        try:
            for _ in requests:
                arrived.set()
        except grpc.RpcError:  # It heard of the cancellation before the end of the messages.
            return
        if not ended.wait(PATIENCE_S):  # In the other order the messages just end, and the call next.
            completed.set()

    echo.replace("Upload", watched)
    with socket.create_connection(("127.0.0.1", gateway.port)) as client:
        client.sendall(b"POST /v1/upload/n HTTP/1.1\r\nHost: x\r\nContent-Length: 2000000\r\n\r\n" + b"x" * 1_500_000)
        assert arrived.wait(PATIENCE_S)
        assert not ended.is_set()
    assert ended.wait(PATIENCE_S)
    assert not completed.is_set()


def test_slow_readers_do_not_make_memory_grow(gateway: GatewayThread, echo: EchoServer):
    """A client that stops reading stops the server's stream: what waits is bounded, and flows on later."""
    size, messages = 100_000, 2_000
    request = f"GET /v1/stream?messages={messages}&size={size} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    before = resident_bytes()
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        client.connect(("127.0.0.1", gateway.port))
        client.sendall(request.encode())
        wait_until(lambda: echo.sent > 0)
        held = settled(lambda: echo.sent)
        assert held < 300  # 30 MB at the very most of 200 MB: socket and HTTP/2 buffers
        assert resident_bytes() - before < 100 * MIB
        received = 0
        client.settimeout(PATIENCE_S)
        while received < 50 * MIB:
            received += len(client.recv(1 << 20))
    assert echo.sent > held
    assert echo.cancelled.wait(PATIENCE_S)  # the client left before the end


def resident_bytes() -> int:
    """Memory of this process, which holds the gateway and the server."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


def test_answers_are_not_held_back(rest: httpx.Client, gateway: GatewayThread):
    """What is written goes out at once, not with the 40 milliseconds of a delayed acknowledgement."""
    rest.get("/v1/things/a")
    sockets = [each.transport.get_extra_info("socket") for each in gateway.server.server_state.connections]
    assert sockets
    assert all(each.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) for each in sockets)


def test_a_server_that_is_not_there(echo_contract: Contract):
    """503 with a retry delay, and no word of addresses; the gateway itself lives, and is not ready."""
    settings = GatewaySettings(server_address=f"127.0.0.1:{free_port()}", ready_timeout_s=0.5)
    with (
        GatewayThread(settings, echo_contract) as gateway,
        httpx.Client(base_url=gateway.url, timeout=PATIENCE_S) as rest,
    ):
        answer = rest.get("/v1/things/a")
        assert answer.status_code == 503
        assert answer.headers["retry-after"] == "1"
        assert answer.json()["message"] == "the server cannot be reached"
        assert "127.0.0.1" not in answer.text
        assert rest.get("/healthz").json() == {"status": "SERVING"}
        assert rest.get("/readyz").status_code == 503


def test_readiness_is_the_servers(rest: httpx.Client, echo: EchoServer):
    """/readyz says what grpc.health.v1 says."""
    assert (rest.get("/readyz").status_code, rest.get("/readyz").json()) == (200, {"status": "SERVING"})
    echo.health.set("", health_pb2.HealthCheckResponse.NOT_SERVING)
    assert (rest.get("/readyz").status_code, rest.get("/readyz").json()) == (503, {"status": "NOT_SERVING"})


def test_the_unforeseen_is_internal(gateway: GatewayThread, monkeypatch: pytest.MonkeyPatch):
    """An exception that nobody foresaw is a 500 with the request id, and its text stays in the log."""
    monkeypatch.setattr("cutout_gateway.transcoder.parse_query", lambda _: 1 / 0)
    answer = httpx.get(f"{gateway.url}/v1/things/a", headers={"x-request-id": "my-id"}, timeout=PATIENCE_S)
    assert answer.status_code == 500
    assert answer.json()["details"][-1]["requestId"] == "my-id"
    assert "division" not in answer.text


def test_cors_is_off_by_default(rest: httpx.Client):
    """Without the setting no page of another origin is let in."""
    answer = rest.get("/v1/things/a", headers={"origin": "https://a.example"})
    assert "access-control-allow-origin" not in answer.headers
    preflight = {"origin": "https://a.example", "access-control-request-method": "POST"}
    assert rest.options("/v1/things", headers=preflight).status_code == 405


@pytest.mark.parametrize("origins", [("https://a.example",), ("*",)])
def test_cors_lets_in_whom_the_setting_names(echo: EchoServer, echo_contract: Contract, origins: tuple[str, ...]):
    """Named origins may call and read the request id, and never with credentials."""
    settings = GatewaySettings(server_address=echo.address, cors_origins=origins)
    with (
        GatewayThread(settings, echo_contract) as gateway,
        httpx.Client(base_url=gateway.url, timeout=PATIENCE_S) as rest,
    ):
        preflight = {
            "origin": "https://a.example",
            "access-control-request-method": "POST",
            "access-control-request-headers": "x-api-key,grpc-timeout",
        }
        allowed = rest.options("/v1/things", headers=preflight)
        assert allowed.status_code == 200
        assert "x-api-key" in allowed.headers["access-control-allow-headers"]
        answer = rest.get("/v1/nowhere", headers={"origin": "https://a.example"})
        assert answer.status_code == 404
        assert answer.headers["access-control-allow-origin"] == origins[0]
        assert "x-request-id" in answer.headers["access-control-expose-headers"]
        other = rest.get("/v1/things/a", headers={"origin": "https://b.example"})
        assert ("access-control-allow-origin" in other.headers) == (origins == ("*",))
        for headers in (allowed.headers, answer.headers, other.headers):
            assert "access-control-allow-credentials" not in headers


@pytest.mark.parametrize(
    ("changed", "field"),
    [
        ({"origin": "https://b.example"}, "Origin"),
        ({"access-control-request-method": "BREW"}, "Access-Control-Request-Method"),
    ],
)
def test_a_preflight_is_refused_in_the_form_of_all_refusals(
    echo: EchoServer, echo_contract: Contract, changed: dict[str, str], field: str
):
    """JSON that names what was wrong, with the request's id, and with nothing that would let a browser go on."""
    settings = GatewaySettings(server_address=echo.address, cors_origins=("https://a.example",))
    preflight = {"origin": "https://a.example", "access-control-request-method": "POST", "x-request-id": "asked"}
    with GatewayThread(settings, echo_contract) as gateway:
        refused = httpx.options(f"{gateway.url}/v1/things", headers=preflight | changed, timeout=PATIENCE_S)
    assert refused.status_code == 400
    details = {detail["@type"].rpartition(".")[2]: detail for detail in refused.json()["details"]}
    assert details["BadRequest"]["fieldViolations"][0]["field"] == field
    assert details["RequestInfo"]["requestId"] == refused.headers["x-request-id"] == "asked"
    assert ("access-control-allow-origin" in refused.headers) == (field != "Origin")
