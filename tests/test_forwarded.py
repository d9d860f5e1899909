"""Whose request it is: the address in both logs, believed of proxies that are trusted and of nobody else."""

import ipaddress

import httpx
import pytest
from adversarial.stack import GOOD, running
from client_fixtures import cutout
from conftest import RunningServer, run_server
from cutout.v1 import model_service_pb2, model_service_pb2_grpc
from cutout_common import forwarded
from cutout_gateway.settings import GatewaySettings
from cutout_server import call_context
from gateway_fixtures import EchoServer, GatewayThread
from structlog.testing import capture_logs
from waiting import PATIENCE_S, wait_until

PROXIES = [ipaddress.ip_network(text) for text in ("10.0.0.0/8", "2001:db8:1::/48")]
CLIENT, OTHER = "203.0.113.9", "198.51.100.7"


@pytest.mark.parametrize(
    ("peer", "values", "expected"),
    [
        (CLIENT, [OTHER], CLIENT),
        ("10.0.0.1", [], "10.0.0.1"),
        ("10.0.0.1", [CLIENT], CLIENT),
        ("10.0.0.1", [f"{OTHER}, {CLIENT}"], CLIENT),
        ("10.0.0.1", [OTHER, CLIENT], CLIENT),
        ("10.0.0.1", [f"{OTHER}, {CLIENT}, 10.2.0.1"], CLIENT),
        ("10.0.0.1", ["10.3.0.1, 10.2.0.1"], "10.3.0.1"),
        ("10.0.0.1", [f"{CLIENT}:4711"], CLIENT),
        ("10.0.0.1", ["[2001:db8::9]:4711"], "2001:db8::9"),
        ("2001:db8:1::1", ["2001:0DB8:0::9"], "2001:db8::9"),
        ("10.0.0.1", [f"::ffff:{CLIENT}"], CLIENT),
        ("10.0.0.1", [f"{CLIENT}, unknown"], "10.0.0.1"),
        ("10.0.0.1", [f"{CLIENT}, 10.2.0.1, <script>"], "10.0.0.1"),
        ("10.0.0.1", [f"{CLIENT},"], "10.0.0.1"),
        ("", [CLIENT], ""),
    ],
)
def test_the_rightmost_address_that_is_no_proxys(peer: str, values: list[str], expected: str):
    """Further left anybody can have written, and what is no address ends the search."""
    assert forwarded.caller(peer, forwarded.X_FORWARDED_FOR, values, PROXIES) == expected


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([f"for={CLIENT}"], CLIENT),
        ([f"for={OTHER};proto=https, by=10.2.0.1;For={CLIENT};host=x"], CLIENT),
        (['for="[2001:db8::9]:4711";proto=http'], "2001:db8::9"),
        ([f"for={OTHER}", f"for={CLIENT}, for=10.4.0.1"], CLIENT),
        ([f"for={CLIENT}, for=_hidden"], "10.0.0.1"),
        ([f"by={CLIENT}"], "10.0.0.1"),
        ([f'for="{CLIENT}'], "10.0.0.1"),
        ([CLIENT], "10.0.0.1"),
    ],
)
def test_the_header_of_rfc_7239(values: list[str], expected: str):
    """`Forwarded` in its own grammar."""
    assert forwarded.caller("10.0.0.1", forwarded.FORWARDED, values, PROXIES) == expected


def seen(echo: EchoServer, contract, headers: dict[str, str], **settings: object) -> tuple[str, str]:
    """The address in the gateway's log, and the one that the server is told."""
    told: list[str] = []

    def answer(request, context):
        told.append(dict(context.invocation_metadata())["x-forwarded-for"])
        return request

    echo.replace("Get", answer)
    gateway_settings = GatewaySettings(server_address=echo.address, **settings)
    with GatewayThread(gateway_settings, contract) as gateway, capture_logs() as lines:
        answer = httpx.get(f"{gateway.url}/v1/things/a", headers=headers, timeout=PATIENCE_S).raise_for_status()
        own = ("request", answer.headers["x-request-id"])  # Other gateways of this process log as well.
        (line,) = wait_until(lambda: [line for line in lines if (line["event"], line.get("request_id")) == own])
    return line["client"], told[0]


HEADERS = {"x-forwarded-for": f"{OTHER}, {CLIENT}", "forwarded": f"for={OTHER}"}


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, "127.0.0.1"),
        ({"trusted_proxies": ["10.0.0.0/8"]}, "127.0.0.1"),
        ({"trusted_proxies": ["127.0.0.1"]}, CLIENT),
        ({"trusted_proxies": ["127.0.0.1"], "proxy_header": "forwarded"}, OTHER),
    ],
)
def test_the_gateway_logs_it_and_tells_the_server(echo: EchoServer, echo_contract, settings, expected: str):
    """What a stranger says of itself is not believed; one header is looked at, as a proxy writes but one."""
    assert seen(echo, echo_contract, HEADERS, **settings) == (expected, expected)


def test_nobody_tells_the_server_past_the_gateway(echo: EchoServer, echo_contract):
    """The metadata of that name is the gateway's own."""
    with GatewayThread(GatewaySettings(server_address=echo.address), echo_contract) as gateway:
        headers = {"grpc-metadata-x-forwarded-for": OTHER}
        answer = httpx.get(f"{gateway.url}/v1/things/a", headers=headers, timeout=PATIENCE_S)
    assert answer.status_code == 400
    assert "x-forwarded-for" in answer.text


def peer_of(server: RunningServer, metadata: tuple[tuple[str, str], ...], monkeypatch: pytest.MonkeyPatch) -> str:
    """The address in the server's record of a call."""
    records: list[call_context.CallRecord] = []
    monkeypatch.setattr(call_context.CallLog, "finished", lambda self, record: records.append(record))
    with server.channel() as channel:
        stub = model_service_pb2_grpc.ModelServiceStub(channel)
        stub.ListModels(model_service_pb2.ListModelsRequest(), metadata=metadata, timeout=PATIENCE_S)
    return wait_until(lambda: records)[0].peer


@pytest.mark.parametrize(
    ("trusted", "metadata", "expected"),
    [
        ([], [CLIENT], "ipv4:127.0.0.1:"),
        (["127.0.0.1"], [], "ipv4:127.0.0.1:"),
        (["127.0.0.0/8"], [CLIENT], f"ipv4:{CLIENT}"),
        (["127.0.0.1"], [OTHER, f"{OTHER}, {CLIENT}"], f"ipv4:{CLIENT}"),
        (["127.0.0.1"], ["2001:db8::9"], "ipv6:[2001:db8::9]"),
    ],
)
def test_the_server_believes_whom_it_trusts(
    trusted: list[str], metadata: list[str], expected: str, monkeypatch: pytest.MonkeyPatch
):
    """A caller's own word for its address is not believed; that of a gateway, or a chain of proxies, is."""
    with run_server(trusted_proxies=trusted) as server:
        found = peer_of(server, tuple(("x-forwarded-for", value) for value in metadata), monkeypatch)
    assert found == expected or (expected.endswith(":") and found.startswith(expected))


@pytest.mark.slow
def test_both_logs_of_a_request_through_both(tmp_path):
    """One request, one id, one address."""
    trust = {"trusted_proxies": ["127.0.0.1"]}
    with running(tmp_path, trust, trust) as stack:
        headers = {"x-api-key": GOOD, "x-request-id": "traced", "x-forwarded-for": CLIENT}
        httpx.get(f"{stack.url}/v1/models", headers=headers, timeout=PATIENCE_S).raise_for_status()

        def lines(program, event: str):
            return [line for line in program.events(event) if line["request_id"] == "traced"]

        (request,) = wait_until(lambda: lines(stack.gateway, "request"))
        (call,) = wait_until(lambda: lines(stack.server, "call"))
    assert (request["client"], call["peer"]) == (CLIENT, f"ipv4:{CLIENT}")


@pytest.mark.parametrize("value", ["10.0.0.1/8", "everybody", "10.0.0.0/33"])
def test_networks_that_are_none_are_refused_at_the_start(value: str):
    """An address with bits beyond its network is a misspelt network."""
    done = cutout("127.0.0.1:1", "config", "--trusted-proxies", value, code=2)
    assert "trusted_proxies" in done.stderr
