"""What may import what: the rooms of the server, and the arrows between them."""

import ast
import importlib
import inspect
import re
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import cutout_server
import pytest
from cutout_server.models import operations, protocols
from cutout_server.pipelines import segment
from cutout_server.types import AnalyzeRequest, MasksRequest

ROOT = Path(cutout_server.__file__).parent
REPOSITORY = Path(__file__).parent.parent
# Each room with all that it may import of the server. A room is a package, or a file beside them. Files that are not
# named here put the server together or stand around its calls.
MAY_IMPORT = {
    "errors": set(),
    "types": {"errors"},
    "wording": set(),
    "zoo": set(),
    "web_files": {"errors"},
    "callers": {"errors"},
    "call_context": {"callers", "errors"},
    "imaging": {"errors", "types"},
    "models": {"errors", "types"},
    "weights": {"errors", "types", "web_files", "zoo"},
    "settings": {"callers", "models", "weights", "zoo"},
    "lacking": {"errors", "models", "types", "zoo"},
    "catalogue": {"errors", "lacking", "models", "settings", "types", "weights", "zoo"},
    "pools": {"call_context", "catalogue", "daemon", "errors", "models", "settings", "types", "weights"},
    "cluster": {"call_context", "catalogue", "daemon", "errors", "models", "pools", "settings", "types"},
    "images": {"callers", "call_context", "errors", "imaging", "pools", "types"},
    "pipelines": {
        "call_context",
        "catalogue",
        "errors",
        "images",
        "imaging",
        "lacking",
        "models",
        "pools",
        "types",
        "wording",
    },
    "convert": {"call_context", "catalogue", "errors", "images", "status", "types", "wording"},
    "services": {
        "call_context",
        "catalogue",
        "convert",
        "errors",
        "images",
        "pipelines",
        "pools",
        "status",
        "types",
    },
}
# Of the models' own files, those that pipelines and pools see: Protocols and values, no network.
SEEN_OF_MODELS = {"embedding", "family", "operations", "protocols", "queries", "runtime"}


def imports(file: Path) -> Iterator[list[str]]:
    """The parts of each name of the server that a file imports, behind the package's own."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            for name in node.names:
                package, *parts = f"{node.module}.{name.name}".split(".")
                if package == "cutout_server":
                    yield parts


def imported(package: str) -> dict[str, set[str]]:
    """Each module of a package with those of the package that it imports, wherever it does so."""
    root = Path(inspect.getfile(importlib.import_module(package))).parent
    modules = {
        ".".join((package, *file.relative_to(root).with_suffix("").parts)).removesuffix(".__init__"): file
        for file in root.rglob("*.py")
    }
    return {
        module: {
            next((name for name in (f"{node.module}.{alias.name}", node.module) if name in modules), module)
            for node in ast.walk(ast.parse(file.read_text()))
            if isinstance(node, ast.ImportFrom) and node.module
            for alias in node.names
        }
        - {module}
        for module, file in modules.items()
    }


def files(room: str) -> list[Path]:
    package = ROOT / room
    return sorted(package.rglob("*.py")) if package.is_dir() else [package.with_suffix(".py")]


@pytest.mark.parametrize("room", MAY_IMPORT)
def test_a_room_imports_no_more_than_it_may(room: str):
    """Pixels and models know domain types, pipelines know models, and servicers alone know both ends."""
    found = {parts[0] for file in files(room) for parts in imports(file)} - {room}
    assert found <= MAY_IMPORT[room]


@pytest.mark.parametrize("package", ["cutout_client", "cutout_common", "cutout_gateway", "cutout_server"])
def test_modules_can_be_read_one_after_the_other(package: str):
    """No module imports one that imports it, by whatever way round."""
    for module in TopologicalSorter(imported(package)).static_order():
        assert module


def test_pipelines_and_converters_know_no_network():
    """Pipelines ask models by way of operations; converters know no model at all."""
    for file in [*files("pipelines"), *files("convert")]:
        seen = {parts[1] for parts in imports(file) if parts[0] == "models"}
        assert seen <= SEEN_OF_MODELS, file


def test_protobuf_stays_at_the_edge_and_torch_in_the_models():
    """Past the converters there are frozen types alone; what imports torch, or Ray, can be left out."""
    for file in sorted(ROOT.rglob("*.py")):
        room = file.relative_to(ROOT).parts[0]
        for node in ast.walk(ast.parse(file.read_text())):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            packages = {name.split(".")[0] for name in names}
            assert "torch" not in packages or room == "models", file
            assert "cutout" not in packages or room in {"convert", "services"}, file
            assert "ray" not in packages or room == "cluster", file


def test_the_architecture_names_files_that_exist():
    """And every room that the test holds is in its table or part of one that is."""
    text = (REPOSITORY / "docs" / "architecture.md").read_text()
    named = set(re.findall(r"`((?:[\w.]+/)*[\w.]+(?:/|\.py)?)`", text))
    paths = {name for name in named if "/" in name or name.endswith(".py")}
    assert len(paths) > 30
    missing = {path for path in paths if not (ROOT / path).exists() and not (REPOSITORY / path).exists()}
    assert not missing
    assert text.split("## Words")[1].count("\n| ") <= 25 + 2


def test_a_box_request_is_followed_through_few_files():
    """Whoever reads on from the interceptors to the answer opens fewer than thirty files."""
    text = (REPOSITORY / "docs" / "architecture.md").read_text()
    steps = re.findall(
        r"^\d\. (.+(?:\n   .+)*)", text.split("## The walk of one box request")[1].split("\n## ")[0], re.MULTILINE
    )
    assert len(steps) == 7
    assert 15 < len({name for step in steps for name in re.findall(r"`([\w/]+\.py)`", step)}) < 30


def test_nobody_behind_the_converters_asks_what_kind_a_request_is():
    """A kind of request is a class in `pipelines/kinds`; what differs between kinds is a member of theirs."""
    requests = {kind.__name__ for kind in (MasksRequest, *MasksRequest.__subclasses__(), AnalyzeRequest)}
    for file in [*files("services"), *files("pipelines"), *files("pools"), *files("models")]:
        for node in ast.walk(ast.parse(file.read_text())):
            asked: set[str] = set()
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "isinstance":
                asked = {name.id for name in ast.walk(node.args[1]) if isinstance(name, ast.Name)}
            elif isinstance(node, ast.MatchClass) or (isinstance(node, ast.Compare) and "type(" in ast.unparse(node)):
                asked = {name.id for name in ast.walk(node) if isinstance(name, ast.Name)}
            assert not asked & {*requests, "SegmentRequest"}, file
            # Nor by a name that the request carries of its own kind.
            assert not (isinstance(node, ast.Attribute) and ast.unparse(node) == "request.kind"), file


def test_every_request_has_a_kind_and_every_method_of_a_model_an_operation():
    """So that what is missing shows here, and not when the first caller asks for it."""
    assert set(segment._KINDS) == {*MasksRequest.__subclasses__(), AnalyzeRequest}
    methods = {
        name
        for protocol in vars(protocols).values()
        if isinstance(protocol, type) and getattr(protocol, "_is_protocol", False)
        for name, member in vars(protocol).items()
        if inspect.isfunction(member) and not name.startswith("_")
    }
    asked = [operation.name for operation in vars(operations).values() if isinstance(operation, operations.Operation)]
    assert sorted(methods) == sorted(asked)
