"""A real Prometheus with the configuration and the rules of deploy/prometheus, over servers of a test."""

import json
import re
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import yaml
from documentation import ROOT
from waiting import PATIENCE_S, wait_until

from tools import free_port, require

DEPLOYED = ROOT / "deploy" / "prometheus"


def scraped(url: str, metric: str, **labels: str) -> float:
    """What a metric's series with these labels come to."""
    text = httpx.get(url, timeout=PATIENCE_S).text
    lines = re.findall(rf"^{metric}(?:{{(.*)}})? (\S+)$", text, re.MULTILINE)
    wanted = [f'{name}="{value}"' for name, value in labels.items()]
    return sum(float(value) for found, value in lines if all(each in found for each in wanted))


@dataclass(frozen=True)
class Prometheus:
    """One that runs, and who asks it."""

    client: httpx.Client

    def get(self, path: str, **parameters: str) -> Any:
        """What its API answers with; None while it does not."""
        try:
            answer = self.client.get(f"/api/v1/{path}", params=parameters).json()
        except (httpx.TransportError, json.JSONDecodeError):  # it has not begun
            return None
        assert answer["status"] == "success", answer
        return answer["data"]

    def ask(self, query: str) -> list[dict[str, Any]]:
        """The series that a query gives now."""
        data = self.get("query", query=query)
        return data["result"] if data else []


@contextmanager
def run_prometheus(folder: Path, targets: Mapping[str, str]) -> Iterator[Prometheus]:
    """Runs one that scrapes often.

    Args:
        folder: For its data.
        targets: host:port by the names of the configuration's jobs.
    """
    program = require("prometheus", "Debian has it in the package prometheus")
    config = yaml.safe_load((DEPLOYED / "prometheus.yml").read_text())
    config["global"] = {"scrape_interval": "200ms", "scrape_timeout": "200ms", "evaluation_interval": "200ms"}
    config["rule_files"] = [str(DEPLOYED / name) for name in config["rule_files"]]
    assert {job["job_name"] for job in config["scrape_configs"]} == targets.keys()
    for job in config["scrape_configs"]:
        del job["dns_sd_configs"]
        job["static_configs"] = [{"targets": [targets[job["job_name"]]]}]
    file = folder / "prometheus.yml"
    file.write_text(yaml.safe_dump(config))
    port = free_port()
    flags = [f"--config.file={file}", f"--storage.tsdb.path={folder}", f"--web.listen-address=127.0.0.1:{port}"]
    command = [program, *flags, "--enable-feature=exemplar-storage"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=PATIENCE_S) as client:
            running = Prometheus(client)
            wait_until(lambda: running.get("status/config") or process.poll() is not None)
            yield running
    finally:
        process.terminate()
        process.wait(PATIENCE_S)
