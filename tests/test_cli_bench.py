"""`cutout bench` against the real server."""

import json
from pathlib import Path

import grpc
import PIL.Image
import pytest
from client_fixtures import scripted_server
from conftest import RunningServer
from cutout_client import Client
from cutout_client.cli import main
from cutout_common.status import ErrorDetails


def encodings(server: RunningServer) -> int:
    """How many pictures the server has encoded so far."""
    with Client(server.address) as client:
        return sum(device.embeddings.misses for device in client.status().devices)


@pytest.mark.parametrize(("flags", "encoded"), [([], 5), (["--same"], 1)])
def test_levels(
    server: RunningServer, tmp_path: Path, flags: list[str], encoded: int, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each number of callers is measured: every call is counted, each about another picture or all about the same."""
    before = encodings(server)
    plot = tmp_path / "plots" / "bench.png"
    level = ["--callers", "1,3", "--seconds", "0", "--plot", str(plot), "--server", server.address]
    assert main(["bench", *level, *flags, "--json"]) == 0
    measured = json.loads(capsys.readouterr().out)
    assert measured["models"] == ["builtin"]
    assert [each["callers"] for each in measured["levels"]] == [1, 3]
    assert [each["answers"] for each in measured["levels"]] == [1, 3]
    assert encodings(server) - before <= encoded
    if not flags:
        assert encodings(server) - before == encoded  # the first of them loads the model
    for each in measured["levels"]:
        assert 0 < each["p50_ms"] <= each["p90_ms"] <= each["p99_ms"]
        assert each["per_second"] > 0
        assert each["stages_ms"]["prompt_ms"] > 0
        assert each["refusals"] == {}
    with PIL.Image.open(plot) as image:
        assert image.width > 1000


def test_refusals_are_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A full server is no failure: what it refuses is counted by reason, and not asked again."""
    full = (grpc.StatusCode.RESOURCE_EXHAUSTED, "full", ErrorDetails("QUEUE_FULL", retry_after_s=0.01))
    image = PIL.Image.new("RGB", (64, 48), "red")
    image.save(tmp_path / "red.png")
    flags = ["--callers", "1", "--seconds", "0", "--box", "1,2,3,4"]
    with scripted_server() as script:
        script.failures = [full, full]
        assert main(["bench", str(tmp_path / "red.png"), *flags, "--server", script.address]) == 1
        assert script.calls == ["SegmentByBox"] * 2
    printed = capsys.readouterr().out
    assert "64 x 48 pixels" in printed
    assert "QUEUE_FULL x1" in printed


@pytest.mark.parametrize("callers", ["0", "1,x", ""])
def test_callers_that_cannot_be(callers: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Numbers of callers are whole and positive."""
    with pytest.raises(SystemExit):
        main(["bench", "--callers", callers])
    assert "expected numbers of callers such as 1,4,16" in capsys.readouterr().err
