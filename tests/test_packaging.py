"""The distribution: one wheel from a clean checkout, with stubs that nobody committed."""

import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import cutout_client
import cutout_common
import cutout_gateway
import cutout_server
import pytest
from cutout_common.commit import commit
from cutout_common.distribution import NAME, install_hint

ROOT = Path(__file__).parent.parent
PACKAGES = {"cutout", "cutout_client", "cutout_common", "cutout_gateway", "cutout_server"}


def tracked() -> list[str]:
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True)
    return listed.stdout.splitlines()


def test_nothing_generated_is_committed():
    """Stubs, descriptors and lock files that name registries stay out of the repository."""
    generated = ("_pb2.py", "_pb2.pyi", "_pb2_grpc.py", ".binpb", "uv.lock", "package-lock.json")
    assert [name for name in tracked() if name.endswith(generated)] == []


def test_the_distribution_has_one_name():
    """pyproject.toml, its extras that build on each other, and the hints in the code agree on it."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["name"] == NAME
    required = [each for extra in project["optional-dependencies"].values() for each in extra if "cutout" in each]
    assert required
    assert all(each.startswith(f"{NAME}[") for each in required)
    assert install_hint("server") == f"pip install '{NAME}[server]'"


def test_nothing_tells_anyone_to_install_a_strangers_package():
    """`cutout` on the package index is another project: no text names it, with extras or without."""
    strangers = re.compile(r"(?<![\w-])cutout\[|(?:pip|pipx|uv add|uvx)\b[^\n]* ['\"]?cutout(?![\w/.=-])")
    named = {
        f"{name}: {found.group()}"
        for name in tracked()
        if name.endswith((".py", ".md", ".toml", ".txt", ".yaml", ".proto", ".sh", "Makefile"))
        and not name.startswith("tests/")
        for found in strangers.finditer((ROOT / name).read_text(encoding="utf-8"))
    }
    assert named == set()


@pytest.mark.slow
def test_every_package_and_program_tells_its_version(tmp_path: Path):
    """`__version__` is one; `--version` prints it with the commit, for every command of every program."""
    assert {each.__version__ for each in (cutout_client, cutout_common, cutout_gateway, cutout_server)} == {"0.1.0"}
    programs = [["cutout_client"], ["cutout_server"], ["cutout_gateway"]]
    programs += [["cutout_client", command] for command in ("segment", "models", "serve", "config")]
    for program in programs:
        command = [sys.executable, "-m", *program, "--version"]
        run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
        assert (run.returncode, run.stdout) == (0, f"cutout 0.1.0 (commit {commit()})\n"), (program, run.stderr)


def test_a_checkout_knows_its_commit():
    """It is git's own, asked while the program runs."""
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=True)
    assert commit().removesuffix("-dirty") == head.stdout[:12]


@pytest.mark.slow
def test_a_clean_checkout_builds_a_whole_wheel(tmp_path: Path):
    """A wheel made from the sdist has every package, generated stubs, descriptors and the commit, and works alone."""
    checkout = tmp_path / "checkout"
    for name in tracked():
        copy = checkout / name
        copy.parent.mkdir(parents=True, exist_ok=True)
        if (ROOT / name).is_file():
            copy.write_bytes((ROOT / name).read_bytes())
    git = ["git", "-c", "user.name=tests", "-c", "user.email=tests@example.org"]
    for arguments in (["init", "-q"], ["add", "-A"], ["commit", "-q", "-m", "All"]):
        subprocess.run([*git, *arguments], cwd=checkout, check=True)
    asked = subprocess.run(["git", "rev-parse", "HEAD"], cwd=checkout, capture_output=True, text=True, check=True)
    command = [sys.executable, "-m", "hatchling", "build", "-t", "sdist", "-d", str(tmp_path)]
    built = subprocess.run(command, cwd=checkout, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    (sdist,) = tmp_path.glob("cutout_service-*.tar.gz")
    shutil.unpack_archive(sdist, tmp_path, filter="data")
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "-w", str(tmp_path), "."]
    unpacked = tmp_path / sdist.name.removesuffix(".tar.gz")
    built = subprocess.run(command, cwd=unpacked, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    (wheel,) = tmp_path.glob("cutout_service-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        archive.extractall(tmp_path / "site")
    assert {name.split("/")[0] for name in names if "dist-info" not in name} == PACKAGES
    stubs = {Path(name).name for name in names if name.startswith("cutout/v1/")}
    assert stubs >= {"segmentation_service_pb2.py", "segmentation_service_pb2.pyi", "segmentation_service_pb2_grpc.py"}
    assert {"descriptors.binpb", "mask.proto"} < stubs
    assert {"cutout_server/models/builtin/network.onnx", "cutout_gateway/page/index.html"} < set(names)
    assert {name.split("/")[-1] for name in names if "/licenses/" in name} == {"LICENSE", "NOTICE"}
    site = str(tmp_path / "site")
    program = "\n".join(
        (
            "import sys",
            f"sys.path = [{site!r}, *(p for p in sys.path if {str(ROOT)!r} not in p or 'site-packages' in p)]",
            "import cutout.v1.mask_pb2 as pb2, cutout_common.commit",
            "print(pb2.__file__, cutout_common.commit.commit())",
        )
    )
    run = subprocess.run([sys.executable, "-I", "-c", program], capture_output=True, text=True)
    assert run.stdout.startswith(site), run.stderr
    assert run.stdout.split()[-1] == asked.stdout[:12]


def test_the_client_needs_no_server():
    """The client imports neither torch nor the server, and the gateway neither of them."""
    program = "import sys, {}; print(sorted(m for m in ('torch', 'cv2', 'cutout_server') if m in sys.modules))"
    for package in ("cutout_client", "cutout_gateway.app"):
        run = subprocess.run([sys.executable, "-c", program.format(package)], capture_output=True, text=True)
        assert run.stdout == "[]\n", run.stderr


def test_the_built_in_model_needs_no_torch():
    """Its weights are in the package, and what runs them is light."""
    program = "import sys; from cutout_server.models.builtin import load; from cutout_server.types import ModelFiles"
    program += "; load(ModelFiles(), 'cpu'); print('torch' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert run.stdout == "False\n", run.stderr


def test_only_models_import_torch():
    """Torch is imported inside models/ and nowhere else; messages only in services/ and convert/."""
    server = ROOT / "server/cutout_server"
    for path in server.rglob("*.py"):
        text, place = path.read_text(), path.relative_to(server).parts[0]
        assert place == "models" or "import torch" not in text, path
        assert place in {"services", "convert"} or "cutout.v1" not in text.replace("/cutout.v1", ""), path
