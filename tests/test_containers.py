"""The images: linted, and on demand built for real and run with a read-only root as nobody in particular."""

import json
import os
import re
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import compose_spec
import pytest
import yaml
from conftest import Photo
from cutout_client import Client
from cutout_common import __version__
from cutout_common.commit import commit
from cutout_gateway.settings import GatewaySettings
from cutout_server.settings import Settings
from documentation import BIN, ROOT
from prometheus import DEPLOYED
from waiting import PATIENCE_S

from tools import free_port, require

DOCKERFILES = ("Dockerfile.cpu", "Dockerfile.gpu")
# A folder for what is kept from one run to the next: the base image's root.
ASKED = "CUTOUT_BUILD_IMAGES"
PACKAGES = "ca-certificates,python3,python3-venv"
CERTIFICATES = "/etc/ssl/certs"
# In a mount namespace of its own: the image's root read-only, with what a container runtime mounts.
CONTAINED = """
set -e
mount --bind "$0" "$0"
mount -o remount,ro,bind "$0"
for folder in tmp weights; do mount -t tmpfs -o mode=1777 tmpfs "$0/$folder"; done
mount -t proc proc "$0/proc"
mount --bind /dev "$0/dev"
exec chroot --userspec=10001:10001 "$0" /usr/bin/env -i "$@"
"""


@pytest.mark.parametrize("dockerfile", DOCKERFILES)
def test_hadolint_finds_nothing_to_complain_about(dockerfile: str):
    """Nor does anything run as root, through a shell, or of another version than the code's."""
    linted = subprocess.run([BIN / "hadolint", ROOT / dockerfile], capture_output=True, text=True)
    assert (linted.returncode, linted.stdout) == (0, "")
    text = (ROOT / dockerfile).read_text()
    assert f"ARG VERSION={__version__}\n" in text
    assert re.search(r"^USER \d+:\d+$", text, re.MULTILINE)
    for instruction in ("HEALTHCHECK .* CMD", "ENTRYPOINT", "CMD"):
        assert re.search(rf'^{instruction} \["', text, re.MULTILINE)


def test_images_differ_in_what_the_hardware_needs_alone():
    """Both files are the same but for extras, devices and what starts by default."""
    cpu, gpu = ((ROOT / name).read_text().splitlines() for name in DOCKERFILES)
    differ = {line.split("=")[0].split(" [")[0].strip() for line in set(cpu) ^ set(gpu) if not line.startswith("#")}
    assert differ == {
        "ARG EXTRAS",
        "CMD",
        "CUTOUT_DEVICES",
        "NVIDIA_VISIBLE_DEVICES",
        "NVIDIA_DRIVER_CAPABILITIES",
    }


def test_compose_is_what_the_specification_allows():
    """Every field is one of it, every file that is mounted is there, and every setting is one of the programs'."""
    text = (ROOT / "compose.yaml").read_text()
    composed = yaml.safe_load(re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", text))
    compose_spec.PyCompose.from_json(json.dumps(composed))
    services = composed["services"]
    assert services.keys() == {"server", "gateway", "prometheus", "grafana"}
    for service in services.values():
        for volume in service.get("volumes", ()):
            source = volume.split(":")[0]
            assert not source.startswith(".") or (ROOT / source).is_dir()
    for name, settings in ("server", Settings), ("gateway", GatewaySettings):
        prefix = settings.model_config["env_prefix"]
        known = {f"{prefix}{field}".upper() for field in settings.model_fields}
        assert services[name]["environment"].keys() <= known
    scraped = yaml.safe_load((DEPLOYED / "prometheus.yml").read_text())["scrape_configs"]
    assert {job["dns_sd_configs"][0]["names"][0] for job in scraped} <= services.keys()


def buildah(*arguments: object) -> str:
    """What it prints; it must end well."""
    folder = Path(os.environ[ASKED])
    program = [require("buildah", "Debian has it"), "--root", folder / "storage", "--runroot", folder / "run"]
    env = os.environ | {"BUILDAH_ISOLATION": "chroot"}
    done = subprocess.run([*map(str, program), *map(str, arguments)], capture_output=True, text=True, env=env, cwd=ROOT)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout.strip().splitlines()[-1] if done.stdout.strip() else ""


@pytest.fixture(scope="module")
def image() -> Iterator[Path]:
    """The root of Dockerfile.cpu's image, on Debian's own packages; the base is made once."""
    if ASKED not in os.environ:
        pytest.skip(f"takes ten minutes; {ASKED}=FOLDER asks for it")
    folder = Path(os.environ[ASKED]).absolute()
    root, base = folder / "root", "localhost/debian-python"
    if not root.exists():
        program = require("debootstrap", "Debian has it")
        subprocess.run([program, "--variant=minbase", f"--include={PACKAGES}", "bookworm", root], check=True)
    container = buildah("from", "scratch")
    buildah("add", "-q", container, root, "/")
    buildah("commit", "-q", "--rm", container, base)
    built = {"BASE": base, "TORCH_INDEX": "", "COMMIT": commit()}
    arguments = [f"--build-arg={name}={value}" for name, value in built.items()]
    network = ["--network=host", f"--volume={CERTIFICATES}:{CERTIFICATES}:ro"]
    buildah("build", "--format=docker", "-f", "Dockerfile.cpu", *network, *arguments, "-t", "localhost/cutout", ".")
    container = buildah("from", "localhost/cutout")
    try:
        yield Path(buildah("mount", container))
    finally:
        buildah("umount", container)
        buildah("rm", container)


@contextmanager
def contained(root: Path, *command: str) -> Iterator[subprocess.Popen[bytes]]:
    """A program of the image, run by the image's user on a root that cannot be written to."""
    settings = ["PATH=/opt/cutout/bin:/usr/bin:/bin", "HOME=/tmp", "CUTOUT_WEIGHTS_DIR=/weights"]
    process = subprocess.Popen(["unshare", "--mount", "sh", "-c", CONTAINED, root, *settings, *command])
    try:
        yield process
    finally:
        process.kill()
        process.wait(PATIENCE_S)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_the_image_serves(image: Path, photos: dict[str, Photo]):
    """It starts, is found healthy by its own check, segments a photograph, knows its commit, and ends on SIGTERM."""
    for absent in ("usr/bin/gcc", "usr/bin/cc", "opt/cutout/bin/pip", "root/.cache", "src"):
        assert not (image / absent).exists()
    port = free_port()
    address = f"localhost:{port}"
    command = ("cutout", "serve", f"--port={port}", "--metrics-port=-1", f"--gateway-port={free_port()}")
    with contained(image, *command) as server:
        health = ("cutout", "health", f"--server={address}", f"--wait={PATIENCE_S}")
        with contained(image, *health) as asked:
            assert asked.wait(2 * PATIENCE_S) == 0
        with Client(address) as client:
            found = client.segment_box(photos["chelsea"].jpeg, (60, 20, 400, 290))
            assert found[0].mask.any()
            assert client.status().commit == commit()
        server.send_signal(signal.SIGTERM)
        assert server.wait(PATIENCE_S) == 0
