"""Tests wait as CONTRIBUTING.md says."""

import ast
from pathlib import Path

import pytest

REQUESTS = {"httpx.get", "httpx.post", "httpx.put", "httpx.head", "httpx.delete", "httpx.options", "httpx.request"}
REQUESTS |= {"httpx.stream", "httpx.Client", "httpx.AsyncClient"}


@pytest.mark.parametrize("file", sorted(Path(__file__).parent.glob("*.py")), ids=lambda file: file.stem)
def test_only_a_hang_meets_a_limit(file: Path):
    """Requests say their timeout, as httpx's own is 5 s; what should not run out of time is given PATIENCE_S."""
    for call in (node for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.Call)):
        given = {keyword.arg: keyword.value for keyword in call.keywords}
        place = f"{file.name}:{call.lineno}"
        if ast.unparse(call.func) in REQUESTS:
            assert "timeout" in given or None in given, f"{place} has no timeout"
        limit = given.get("timeout")
        if isinstance(limit, ast.Constant) and limit.value is not None:
            assert not 1 <= limit.value <= 300, f"{place} may take long enough on a slow machine: use PATIENCE_S"
