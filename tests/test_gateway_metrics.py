"""What the gateway counts and logs: every request by its route, probes quietly, for real Prometheus tools."""

import socket
import subprocess
from collections.abc import Container, Iterator, MutableMapping
from typing import Any

import httpx
import pytest
from cutout_common.commit import commit
from cutout_gateway.settings import GatewaySettings
from gateway_fixtures import GatewayThread
from prometheus_client.parser import text_string_to_metric_families
from structlog.testing import capture_logs
from waiting import PATIENCE_S, wait_until

from tools import require

REQUESTS = [
    ("GET", "/healthz", "/healthz", 200),
    ("GET", "/", "/", 200),
    ("GET", "/page/main.js", "/page/*", 200),
    ("GET", "/docs", "/docs", 200),
    ("GET", "/docs/static/swagger-ui.css", "/docs/static/*", 200),
    ("GET", "/openapi.json", "/openapi.json", 200),
    ("GET", "/v1/models", "/v1/models", 503),
    ("GET", "/v1/models/any", "/v1/models/{name}", 503),
    ("GET", "/readyz", "/readyz", 503),
    ("GET", "/nowhere/anything", "", 404),
    ("BREW", "/nowhere/else", "", 404),
]


@pytest.fixture(scope="module")
def gateway() -> Iterator[GatewayThread]:
    with GatewayThread(GatewaySettings(server_address="127.0.0.1:1")) as running:
        yield running


def scrape(gateway: GatewayThread) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    text = httpx.get(f"{gateway.url}/metrics", timeout=PATIENCE_S).text
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def of_requests(line: MutableMapping[str, Any], ids: Container[str]) -> bool:
    """Other gateways of this process log as well, whenever their clients leave."""
    return line["event"] == "request" and line["request_id"] in ids


def test_every_request_is_counted_and_logged_by_its_route(gateway: GatewayThread):
    """Templates, pages, static files are labels; what callers make up is none. Good probes are lines for debugging."""
    before = scrape(gateway)
    with capture_logs() as lines:
        own = {}
        for method, path, _, status in REQUESTS:
            answer = httpx.request(method, gateway.url + path, timeout=PATIENCE_S)
            assert answer.status_code == status
            own[answer.headers["x-request-id"]] = path
        wait_until(lambda: sum(of_requests(line, own) for line in lines) == len(REQUESTS))
    told = [line for line in lines if of_requests(line, own)]
    assert [(line["route"], line["status"]) for line in told] == [(route, status) for *_, route, status in REQUESTS]
    assert [line["log_level"] for line in told] == ["debug", *["info"] * (len(REQUESTS) - 1)]
    after = scrape(gateway)
    for method, _, route, status in REQUESTS:
        labels = {"method": method if method == "GET" else "other", "route": route or "none", "status": str(status)}
        key = ("cutout_gateway_requests_total", frozenset(labels.items()))
        assert after[key] - before.get(key, 0) == 1, labels
    assert after["cutout_gateway_requests_in_hand", frozenset()] == 1  # the scrape itself
    version = next(dict(labels) for name, labels in after if name == "cutout_build_info")
    assert version["commit"] == commit()


def test_bytes_in_hand_are_told(gateway: GatewayThread):
    """Those of a body that has not all come; nothing once its client has left."""
    head = b"POST /v1/segment:box HTTP/1.1\r\nHost: x\r\nContent-Length: 2000\r\n\r\n"
    bodies = ("cutout_gateway_bytes_in_hand", frozenset({("what", "bodies")}))
    with socket.create_connection(("127.0.0.1", gateway.port)) as client:
        client.sendall(head + b"x" * 1000)
        wait_until(lambda: scrape(gateway)[bodies] > 0)
    wait_until(lambda: scrape(gateway)[bodies] == 0)


def test_bytes_are_counted(gateway: GatewayThread):
    """Those of the bodies, both ways."""
    labels = frozenset({"method": "POST", "route": "/v1/segment:box"}.items())
    before = scrape(gateway)
    answer = httpx.post(f"{gateway.url}/v1/segment:box", content=b'{"boxes": []}', timeout=PATIENCE_S)
    wait_until(lambda: ("cutout_gateway_sent_bytes_total", labels) in scrape(gateway))
    after = scrape(gateway)
    moved = {
        name: after[f"cutout_gateway_{name}_bytes_total", labels]
        - before.get((f"cutout_gateway_{name}_bytes_total", labels), 0)
        for name in ("received", "sent")
    }
    assert moved == {"received": 13, "sent": len(answer.content)}


def test_promtool_finds_nothing_to_complain_about(gateway: GatewayThread):
    """`promtool check metrics` is clean."""
    promtool = require("promtool", "Debian has it in the package prometheus")
    httpx.get(f"{gateway.url}/v1/models", timeout=PATIENCE_S)
    text = httpx.get(f"{gateway.url}/metrics", timeout=PATIENCE_S).text
    checked = subprocess.run([promtool, "check", "metrics"], input=text, capture_output=True, text=True)
    assert (checked.returncode, checked.stdout + checked.stderr) == (0, "")


def test_metrics_can_be_turned_off():
    """An operator who shows the gateway to strangers can keep them to himself."""
    with GatewayThread(GatewaySettings(server_address="127.0.0.1:1", metrics=False)) as running:
        assert httpx.get(f"{running.url}/metrics", timeout=PATIENCE_S).status_code == 404
