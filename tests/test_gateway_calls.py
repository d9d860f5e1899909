"""Calls through the gateway: errors, headers, deadlines, readiness."""

# ruff: noqa: F811 - fixtures are imported

import base64
import re

import grpc
import httpx
import pytest
from cutout_gateway.descriptors import Contract
from cutout_gateway.settings import GatewaySettings
from echo_gateway import gateway, rest  # noqa: F401 - fixtures
from gateway_fixtures import EchoServer, GatewayThread
from grpc_health.v1 import health_pb2
from waiting import PATIENCE_S

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
            "Grpc-Timeout": "9000S",
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
    assert echo.deadline_s == pytest.approx(9000, abs=PATIENCE_S)
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
