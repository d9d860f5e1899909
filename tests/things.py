"""Things of gateway_echo.proto over REST: a gateway for them, how they look in JSON, and how one is refused."""

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from cutout_gateway.descriptors import Contract
from cutout_gateway.settings import MIB, GatewaySettings
from gateway_fixtures import HERE, EchoServer, GatewayThread, compile_protos
from waiting import PATIENCE_S

DEFAULTS = {
    "name": "",
    "user": "",
    "number": 0,
    "bigNumber": "0",
    "count": 0,
    "ratio": 0,
    "weight": 0,
    "flag": False,
    "data": "",
    "colour": "COLOUR_UNSPECIFIED",
    "numbers": [],
    "texts": [],
    "floats": [],
    "children": [],
    "scores": {},
    "colours": [],
    "blobs": [],
}
CHILD = {"name": "", "tags": [], "data": "", "size": 0}


@pytest.fixture(scope="module")
def contract(tmp_path_factory: pytest.TempPathFactory) -> Contract:
    return Contract(compile_protos(tmp_path_factory.mktemp("echo"), HERE / "gateway_echo.proto"))


@pytest.fixture(scope="module")
def rest(contract: Contract) -> Iterator[httpx.Client]:
    server = EchoServer(contract)
    gateway_settings = GatewaySettings(server_address=server.address, max_body_bytes=4 * MIB, max_upload_bytes=8 * MIB)
    with (
        GatewayThread(gateway_settings, contract) as gateway,
        httpx.Client(base_url=gateway.url, timeout=PATIENCE_S) as client,
    ):
        yield client
    server.stop()


def encoded(body: Any) -> bytes | None:
    """A request's body: bytes and None as they are, everything else as JSON."""
    return body if body is None or isinstance(body, bytes) else json.dumps(body).encode()


def thing(**values: Any) -> dict[str, Any]:
    """The JSON of a Thing with these fields."""
    return DEFAULTS | values


def assert_refused(answer: httpx.Response, field: str) -> str:
    """The answer is 400 with one BadRequest violation, of this field; returns its description."""
    assert answer.status_code == 400, answer.text
    body = answer.json()
    assert body["code"] == 3
    info, bad_request, _, request = body["details"]
    assert request["requestId"] == answer.headers["x-request-id"]
    assert (info["reason"], info["domain"]) == ("INVALID_ARGUMENT", "cutout")
    [violation] = bad_request["fieldViolations"]
    assert bad_request["@type"] == "type.googleapis.com/google.rpc.BadRequest"
    assert violation["field"] == field
    assert len(violation["description"]) < 600
    return violation["description"]
