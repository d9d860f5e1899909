"""docs/errors.md has an entry for each reason that the code gives, and none beside."""

import ast
import re
from collections.abc import Iterator

import grpc
from cutout_gateway.errors import _SAID_BY_GRPC
from documentation import ROOT

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
