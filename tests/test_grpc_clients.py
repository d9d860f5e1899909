"""docs/grpc.md: its clients in other languages, built by its own commands and used against the real server."""

import os
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from conftest import RunningServer
from cutout_client import Client
from cutout_gateway.descriptors import Contract
from documentation import ROOT, Block, Reader, blocks
from PIL import Image

from tools import require

PAGE = "docs/grpc.md"
CAT = ROOT / "gateway/cutout_gateway/page/samples/cat.jpg"
# By heading: the client's file below examples/clients, and what builds and runs it.
CLIENTS = {
    "Node": ("node/client.mjs", ("node",)),
    "Go": ("go/client.go", ("go", "protoc", "protoc-gen-go", "protoc-gen-go-grpc")),
    "C++": ("cpp/client.cc", ("g++", "pkg-config", "protoc", "grpc_cpp_plugin")),
    "Java": ("java/Client.java", ("javac", "protoc", "grpc_java_plugin")),
}
(CONTRACTS,) = [command for block in blocks(PAGE) for command in block.commands if "cutout protos" in command]
INSTALLS = ("npm install ", "apt-get install ")


def section(heading: str) -> list[Block]:
    """The code blocks below a heading of the page."""
    lines = (ROOT / PAGE).read_text("utf-8").splitlines()
    first = lines.index(f"## {heading}")
    last = next((i for i in range(first + 1, len(lines)) if lines[i].startswith("## ")), len(lines))
    return [block for block in blocks(PAGE) if first < block.line <= last]


def commands(heading: str) -> list[str]:
    return [command for block in section(heading) if block.language == "sh" for command in block.commands]


def test_the_page_shows_the_very_clients():
    """Each program on it is the file of examples/clients, and none there is left out."""
    shown = {name: [b.text for b in section(name) if b.language != "sh"] for name in CLIENTS}
    assert shown == {
        name: [(ROOT / "examples/clients" / path).read_text("utf-8")] for name, (path, _) in CLIENTS.items()
    }
    files = {str(path.relative_to(ROOT / "examples/clients")) for path in (ROOT / "examples/clients").glob("*/*")}
    assert files == {path for path, _ in CLIENTS.values()}


def test_the_page_compiles_all_that_a_client_needs():
    """C++ and Java get stubs of the service and of what it imports, near and far, and of nothing else."""
    needed: set[str] = set()
    left = [Contract.load().pool.FindFileByName("cutout/v1/segmentation_service.proto")]
    while left:
        file = left.pop()
        if file.package != "google.protobuf":  # In the libraries.
            needed.add(file.name)
            left.extend(file.dependencies)
    for name in ("C++", "Java"):
        (listed,) = [command for command in commands(name) if command.startswith("FILES=")]
        assert set(listed.removeprefix("FILES=").strip('"').split()) == needed


def test_what_the_page_installs_is_there_when_the_tests_run():
    """Every Debian package that it names is one that `.ci/run` asks for."""
    needed = set(re.findall(r"^need \S+ (\S+)$", (ROOT / ".ci/run").read_text("utf-8"), re.MULTILINE))
    named = [word for name in CLIENTS for c in commands(name) if c.startswith("apt-get ") for word in c.split()[2:]]
    assert len(named) > 10
    assert set(named) <= needed


def test_buf_needs_nothing_but_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Far from the repository, and by the page's own file, it makes stubs of all contracts."""
    require("protoc", "apt-get install protobuf-compiler")
    monkeypatch.setenv("PATH", f"{ROOT / 'node_modules/.bin'}:{os.environ['PATH']}")
    require("buf", "npm install")
    plugins, generate = section("Any other language")
    (tmp_path / "buf.gen.yaml").write_text(plugins.text)
    Reader(tmp_path, "", "").shell([CONTRACTS, *generate.commands])
    made = {path.name for path in (tmp_path / "stubs").rglob("*.*")}
    assert {"SegmentationService.cs", "segmentation_service_pb.rb", "Mask.cs", "mask_pb.rb"} <= made


@pytest.mark.slow
@pytest.mark.parametrize("language", CLIENTS)
def test_a_client_keeps_the_masks_that_python_gets(language: str, server: RunningServer, tmp_path: Path):
    """Built and run as the page says, it writes the cat's mask, pixel for pixel; what is refused it says, and fails."""
    path, programs = CLIENTS[language]
    for program in programs:
        require(program, f"see {language} in {PAGE}")
    shutil.copy(CAT, tmp_path)
    shutil.copy(ROOT / "examples/clients" / path, tmp_path)
    if language == "Node":
        if not (ROOT / "node_modules/@grpc/grpc-js").exists():
            require("grpc-js", "npm install")
        (tmp_path / "node_modules").symlink_to(ROOT / "node_modules")
    reader = Reader(tmp_path, server.address, "")
    build = [command for command in commands(language) if not command.startswith(INSTALLS)]
    refused = f"if {build[-1].removesuffix('cat')}zebra 2> refused.txt; then exit 1; fi"
    said = reader.shell([CONTRACTS, *build, refused])
    with Client(server.address) as client:
        (cat,) = client.segment_text(CAT, ["cat"])
    assert said.splitlines()[-1] == f"cat: {cat.area} pixels, mask-0.png"
    assert np.array_equal(np.asarray(Image.open(tmp_path / "mask-0.png")), cat.mask)
    assert "phrases[0]: expected" in (tmp_path / "refused.txt").read_text()
    assert [path.name for path in tmp_path.glob("mask-*")] == ["mask-0.png"]
