"""docs/errors.md has an entry for each reason that the code gives, and none beside; errors lead to it."""

import ast
import copy
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import grpc
import httpx
import pytest
from conftest import RunningServer
from cutout_client import Client, CutoutError
from cutout_common.status import unpack
from cutout_gateway.errors import _SAID_BY_GRPC
from documentation import ROOT
from google.rpc.status_pb2 import Status
from waiting import PATIENCE_S

PAGE = (ROOT / "docs" / "errors.md").read_text("utf-8")
REASON = re.compile(r"[A-Z]+(_[A-Z]+)*")
ENTRY = re.compile(r"^### (?P<reason>\S+)\n\n(?P<text>.+?)(?=\n\n#|\Z)", re.MULTILINE | re.DOTALL)
# Made of parts, or handed on from where they are written.
COMPUTED = {
    "f'TOO_MANY_{self._what.upper()}'": {"TOO_MANY_CALLS", "TOO_MANY_SESSIONS"},
    "code.name": {code.name for code in _SAID_BY_GRPC},
}
# Reasons that come from somewhere else, where they are looked for, too; and what is no reason of an error.
HANDED_ON = re.compile(
    r"reason|.*\.reason|str\(answer\['reason'\]\)|shorten\(details\.reason, .*|reason or self\.default_reason"
)
OTHERS = {"refused.status.message", "ASKED"}


def sources() -> Iterator[ast.Module]:
    """Every module that makes errors."""
    for folder in ("server", "gateway", "common"):
        for path in (ROOT / folder).rglob("*.py"):
            yield ast.parse(path.read_text("utf-8"))


def constants(trees: list[ast.Module]) -> dict[str, str]:
    """Texts that modules give a name, such as TOO_COSTLY."""
    return {
        target.id: node.value.value
        for tree in trees
        for node in tree.body
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
        for target in node.targets
        if isinstance(target, ast.Name)
    }


def values(tree: ast.Module) -> Iterator[ast.expr]:
    """What is given as a reason: by keyword, as a default, or to a variable of that name, alone or among others."""
    for node in ast.walk(tree):
        if isinstance(node, ast.keyword) and node.arg == "reason":
            yield node.value
        if isinstance(node, ast.AnnAssign) and ast.unparse(node.target) == "default_reason" and node.value:
            yield node.value
        if isinstance(node, ast.Assign):
            for target in node.targets:
                if isinstance(target, ast.Name) and target.id in {"reason", "default_reason"}:
                    yield node.value
                names = [each.id for each in getattr(target, "elts", []) if isinstance(each, ast.Name)]
                if "reason" in names and isinstance(node.value, ast.Tuple):
                    yield node.value.elts[names.index("reason")]


def given() -> set[str]:
    """Every reason that the code gives."""
    trees = list(sources())
    named, found = constants(trees), set()
    for value in (value for tree in trees for value in values(tree)):
        text = ast.unparse(value)
        if text in OTHERS:
            continue
        if isinstance(value, ast.Constant) and isinstance(value.value, str) and REASON.fullmatch(value.value):
            found.add(value.value)
        elif text in COMPUTED:
            found |= COMPUTED[text]
        elif isinstance(value, ast.Name | ast.Attribute) and text.rpartition(".")[2] in named:
            found.add(named[text.rpartition(".")[2]])
        elif not isinstance(value, ast.Constant):
            assert HANDED_ON.fullmatch(text), f"what reason is {text}?"
    return found


def test_every_reason_has_an_entry():
    """And no entry is about a reason that nothing gives."""
    entries = [entry["reason"] for entry in ENTRY.finditer(PAGE)]
    assert len(entries) == len(set(entries))
    assert set(entries) == given()
    assert len(entries) > 50


def test_every_entry_says_its_code_and_is_short():
    """A gRPC code first; then cause and cure, in a few lines."""
    codes = {code.name for code in grpc.StatusCode}
    for entry in ENTRY.finditer(PAGE):
        assert re.split(r"[ ,.]", entry["text"])[0] in codes, entry["reason"]
        assert len(entry["text"]) < 400, entry["reason"]
        assert entry["text"].count(". ") >= 1, entry["reason"]


def links(answer: httpx.Response) -> list[str]:
    """Where an error leads."""
    helps = [detail for detail in answer.json()["details"] if detail["@type"].endswith("google.rpc.Help")]
    return [link["url"] for detail in helps for link in detail["links"]]


def test_errors_lead_to_their_entries(gateway_url: str, server: RunningServer):
    """The server's and the gateway's own, over REST and in Python; what is not of an error of ours leads nowhere."""
    asked = httpx.post(f"{gateway_url}/v1/segment:box", json={}, timeout=PATIENCE_S)
    assert links(asked) == ["docs/errors.md#invalid_argument"]
    assert links(httpx.get(f"{gateway_url}/nowhere", timeout=PATIENCE_S)) == ["docs/errors.md#path_not_found"]
    with Client(server.address) as client, pytest.raises(CutoutError) as refused:
        client.delete("img_that_is_not_there")
    assert refused.value.help_url == "docs/errors.md#image_not_found"
    assert copy.copy(refused.value).help_url == refused.value.help_url
    assert not unpack(Status(code=5)).help_url


def test_the_operator_says_where_they_lead():
    """The setting's page takes the place of the project's; without one there are no links."""
    for page, expected in (("https://errors.example/", ["https://errors.example/#path_not_found"]), ("", [])):
        with running("--port=0", f"--errors-page={page}") as url:
            assert links(httpx.get(f"{url}/nowhere", timeout=PATIENCE_S)) == expected


@contextmanager
def running(*flags: str) -> Iterator[str]:
    """The gateway as a program; its address."""
    command = [sys.executable, "-m", "cutout_gateway", *flags]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        try:
            lines = (json.loads(line)["event"] for line in process.stderr)
            yield next(line.rpartition(" ")[2] for line in lines if line.startswith("gateway listening"))
        finally:
            process.terminate()
            process.communicate(timeout=PATIENCE_S)
