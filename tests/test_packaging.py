"""The distribution: one wheel from a clean checkout, with stubs that nobody committed."""

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = {"cutout", "cutout_client", "cutout_common", "cutout_gateway", "cutout_server"}


def tracked() -> list[str]:
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True)
    return listed.stdout.splitlines()


def test_nothing_generated_is_committed():
    """Stubs, descriptors and lock files that name registries stay out of the repository."""
    generated = ("_pb2.py", "_pb2.pyi", "_pb2_grpc.py", ".binpb", "uv.lock", "package-lock.json")
    assert [name for name in tracked() if name.endswith(generated)] == []


@pytest.mark.slow
def test_a_clean_checkout_builds_a_whole_wheel(tmp_path: Path):
    """The wheel has every package, generated stubs and descriptors, and works without the checkout."""
    checkout = tmp_path / "checkout"
    for name in tracked():
        copy = checkout / name
        copy.parent.mkdir(parents=True, exist_ok=True)
        if (ROOT / name).is_file():
            copy.write_bytes((ROOT / name).read_bytes())
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "-w", str(tmp_path), "."]
    built = subprocess.run(command, cwd=checkout, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    (wheel,) = tmp_path.glob("cutout-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        archive.extractall(tmp_path / "site")
    assert {name.split("/")[0] for name in names if "dist-info" not in name} == PACKAGES
    stubs = {Path(name).name for name in names if name.startswith("cutout/v1/")}
    assert stubs >= {"segmentation_service_pb2.py", "segmentation_service_pb2.pyi", "segmentation_service_pb2_grpc.py"}
    assert "descriptors.binpb" in stubs
    site = str(tmp_path / "site")
    program = "\n".join(
        (
            "import sys",
            f"sys.path = [{site!r}, *(p for p in sys.path if {str(ROOT)!r} not in p or 'site-packages' in p)]",
            "import cutout_client, cutout.v1.mask_pb2 as pb2",
            "print(pb2.__file__)",
        )
    )
    run = subprocess.run([sys.executable, "-I", "-c", program], capture_output=True, text=True)
    assert run.stdout.startswith(site), run.stderr


def test_the_client_needs_no_server():
    """The client imports neither torch nor the server, and the gateway neither of them."""
    program = "import sys, {}; print(sorted(m for m in ('torch', 'cv2', 'cutout_server') if m in sys.modules))"
    for package in ("cutout_client", "cutout_gateway.app"):
        run = subprocess.run([sys.executable, "-c", program.format(package)], capture_output=True, text=True)
        assert run.stdout == "[]\n", run.stderr


def test_only_models_import_torch():
    """Torch is imported inside models/ and nowhere else; messages only in services/ and convert/."""
    server = ROOT / "server/cutout_server"
    for path in server.rglob("*.py"):
        text, place = path.read_text(), path.relative_to(server).parts[0]
        assert place == "models" or "import torch" not in text, path
        assert place in {"services", "convert", "app.py"} or "cutout.v1" not in text.replace("/cutout.v1", ""), path
