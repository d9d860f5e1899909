"""The benchmark of the server's own time: that it runs, and which stages it tells apart; no speed."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from waiting import PATIENCE_S

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "overhead.py"


@pytest.mark.slow
@pytest.mark.parametrize("same", [False, True])
def test_stages_are_told_apart(same: bool, tmp_path: Path):
    """What is made once for equal pictures has no row when one comes again and again."""
    file = tmp_path / "stages.json"
    flags = ["--requests", "4", "--json", str(file), *(["--same"] if same else [])]
    subprocess.run([sys.executable, str(SCRIPT), *flags], check=True, capture_output=True, timeout=PATIENCE_S)
    told = json.loads(file.read_text())
    stages = told["stages"]
    assert (told["requests"], told["same"]) == (4, same)
    once = {"picture: key alone", "beside: digest of pixels", "model: encode"}
    assert once & stages.keys() == (set() if same else once)
    assert {"picture: header", "mask: clean, measure", "model: decode", "the server's own time"} < stages.keys()
    assert 0 < stages["the server's own time"]["p50"] < stages["round trip"]["p99"]
