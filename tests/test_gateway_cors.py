"""Pages of other origins: whom the gateway lets in, and how it refuses the others."""

# ruff: noqa: F811 - fixtures are imported

import httpx
import pytest
from cutout_gateway.descriptors import Contract
from cutout_gateway.settings import GatewaySettings
from echo_gateway import gateway, rest  # noqa: F401 - fixtures
from gateway_fixtures import EchoServer, GatewayThread
from waiting import PATIENCE_S


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
