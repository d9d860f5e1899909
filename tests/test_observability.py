"""The deployed alert rules and dashboard, by real Prometheus tools over a server and a gateway under load."""

import json
import re
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import httpx
import pytest
import yaml
from conftest import Photo, RunningServer, encode, run_server
from cutout_gateway.metrics import Metrics as GatewayMetrics
from cutout_gateway.settings import GatewaySettings
from documentation import ROOT
from gateway_fixtures import GatewayThread
from prometheus import DEPLOYED, Prometheus, run_prometheus
from prometheus_client.parser import text_string_to_metric_families
from waiting import PATIENCE_S, wait_until

from tools import require

RULES = DEPLOYED / "cutout.rules.yml"
DASHBOARD = json.loads((ROOT / "deploy/grafana/dashboards/cutout.json").read_text())
# What Grafana puts in for its variables.
VARIABLES = {"$__rate_interval": "5s", "$instance": ".*"}
BOX = json.dumps({"xMin": 9, "yMin": 9, "xMax": 80, "yMax": 60})
KEYS = {caller: f"the-secret-key-of-{caller}" for caller in ("shop", "lab")}


def alerts() -> list[str]:
    groups = yaml.safe_load(RULES.read_text())["groups"]
    return [rule["alert"] for group in groups for rule in group["rules"] if "alert" in rule]


def queries() -> list[tuple[str, str]]:
    """Each panel's title, and each query of it."""
    panels = [(panel["title"], panel.get("targets", [])) for panel in DASHBOARD["panels"]]
    return [(title, _filled(target["expr"])) for title, targets in panels for target in targets]


def _filled(query: str) -> str:
    for variable, value in VARIABLES.items():
        query = query.replace(variable, value)
    assert "$" not in query
    return query


def metrics_of(queries: str) -> set[str]:
    """Names in them, as families: without what Prometheus's histograms and counters add."""
    names = re.findall(r"\b(?:cutout|grpc_server)_[a-z0-9_]+\b", queries)
    return {re.sub("_(total|bucket|sum|count|info)$", "", name) for name in names}


@pytest.mark.parametrize("arguments", [["rules", RULES.name], ["config", "prometheus.yml"]])
def test_promtool_accepts_what_is_deployed(arguments: list[str]):
    """`promtool check` is clean."""
    promtool = require("promtool", "Debian has it in the package prometheus")
    checked = subprocess.run([promtool, "check", *arguments], cwd=DEPLOYED, capture_output=True, text=True)
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_every_alert_fires_for_what_it_is_about_alone():
    """`promtool test rules`: each for an instance in trouble, with its text, and for none beside it that is well."""
    promtool = require("promtool", "Debian has it in the package prometheus")
    file = DEPLOYED / "cutout.rules.test.yml"
    assert [test["name"] for test in yaml.safe_load(file.read_text())["tests"]] == alerts()
    tested = subprocess.run([promtool, "test", "rules", file.name], cwd=DEPLOYED, capture_output=True, text=True)
    assert tested.returncode == 0, tested.stdout + tested.stderr


@contextmanager
def load(url: str, photo: Photo) -> Iterator[None]:
    """Callers of every kind, over and over: served, refused, with uploads, and one beyond its quota."""
    over = threading.Event()
    picture = encode(photo.pixels[::4, ::4])

    def ask() -> None:
        with httpx.Client(base_url=url, timeout=PATIENCE_S) as client:
            while not over.is_set():
                for key in KEYS.values():
                    headers = {"x-api-key": key}
                    for prompt in ({"boxes": BOX}, {"boxes": BOX, "segmenter": "missing"}):
                        files = {"image.content": picture}
                        client.post("/v1/segment:box", headers=headers, data=prompt, files=files)
                    client.post("/v1/images", headers=headers, content=picture)
                    for _ in range(3):
                        client.get("/v1/models", headers=headers)

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


@pytest.fixture(scope="module")
def prometheus(photos: dict[str, Photo], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    """A Prometheus over a server and a gateway that are under load."""
    keys = [{"caller": caller, "key": key} for caller, key in KEYS.items()]
    keys[1]["quotas"] = {"requests_per_s": 1}
    with (
        run_server(api_keys=keys) as server,
        GatewayThread(GatewaySettings(server_address=server.address)) as gateway,
        load(gateway.url, photos["chelsea"]),
    ):
        targets = {"cutout-server": _place(server), "cutout-gateway": f"127.0.0.1:{gateway.port}"}
        with run_prometheus(tmp_path_factory.mktemp("prometheus"), targets) as running:
            yield running


def _place(server: RunningServer) -> str:
    return server.metrics_url.removeprefix("http://").removesuffix("/metrics")


def test_every_query_of_the_dashboard_has_data(prometheus: Prometheus):
    """Each returns at least one series with a number, from the server and the gateway as they are."""
    for title, query in queries():
        found = wait_until(lambda query=query: [s for s in prometheus.ask(query) if s["value"][1] != "NaN"])
        assert found, title


def test_every_rule_is_evaluated(prometheus: Prometheus):
    """Prometheus finds no fault with any, and those that are about what is well do not fire."""

    def rules() -> list[dict[str, object]]:
        return [rule for group in prometheus.get("rules")["groups"] for rule in group["rules"]]

    wait_until(lambda: all(rule["health"] != "unknown" for rule in rules()))
    assert [rule["name"] for rule in rules() if rule["health"] != "ok"] == []
    assert [rule["name"] for rule in rules() if rule["type"] == "alerting"] == alerts()
    assert [rule["name"] for rule in rules() if rule.get("state") == "firing"] == []
    assert all(series["value"][1] == "1" for series in prometheus.ask("up"))


def test_every_metric_that_rules_name_is_there(prometheus: Prometheus):
    """No alert is silent because nothing of that name is ever told."""
    wait_until(lambda: prometheus.ask("cutout:gateway_request_seconds:p99"))
    there = metrics_of(" ".join(prometheus.get("label/__name__/values")))
    assert metrics_of(RULES.read_text()) <= there


def test_the_guide_tells_of_every_alert_and_metric(server: RunningServer):
    """Of each what it means, in docs/operations.md, which tells of none that there is not."""
    guide = (ROOT / "docs" / "operations.md").read_text()
    assert re.findall(r"^\| `(Cutout\w+)` \|", guide, re.MULTILINE) == alerts()
    text = httpx.get(server.metrics_url, timeout=PATIENCE_S).text
    families = {family.name for family in text_string_to_metric_families(text)}
    families |= {family.name for family in GatewayMetrics().registry.collect()}
    ours = {name for name in families if name.startswith(("cutout_", "grpc_server_"))}
    created = {name for name in ours if name.endswith("_created")}
    table = guide[guide.index("## Metrics") : guide.index("## Upgrades")]
    assert metrics_of(table) == {re.sub("_info$", "", name) for name in ours - created}
