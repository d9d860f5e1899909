"""Datasets of the command line, read back by the tools that they are for: every object comes back, under its name.

The tools want other versions of packages than ours (supervision, Starlette), so they lie in a folder of their own below
`build`, which programs of their own have in front of our environment.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
from conftest import Photo, RunningServer
from cutout_client.cli import main
from filelock import FileLock
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from waiting import PATIENCE_S

from tools import unmet

HERE = Path(__file__).parent
BUILD = HERE.parent / "build"
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")]

POLYGONS = ("coco-polygons", "yolo", "cvat-polygons")
# What reads a format, and what it calls it.
READERS = [
    ("datumaro", "coco", "coco"),
    ("datumaro", "cvat", "cvat"),
    ("datumaro", "cvat-polygons", "cvat"),
    ("datumaro", "voc", "voc_segmentation"),
    ("ultralytics", "yolo", "yolo"),
    ("supervision", "yolo", "yolo"),
    ("supervision", "coco-polygons", "coco"),
]
Found = dict[str, list[tuple[str, np.ndarray]]]  # by picture: labels and (H, W) masks


def packages(name: str, *asked: str) -> Path:
    """A folder with these packages, which stays there until others are asked for."""
    folder, wanted = BUILD / name, "\n".join(asked)
    BUILD.mkdir(exist_ok=True)
    with FileLock(BUILD / f"{name}.lock"):
        stamp = folder / "asked.txt"
        if not stamp.exists() or stamp.read_text() != wanted:
            shutil.rmtree(folder, ignore_errors=True)
            uv = shutil.which("uv", path=Path(sys.executable).parent) or unmet("uv is not installed: make test does it")
            command = [uv, "pip", "install", "--quiet", "--python", sys.executable, "--target", str(folder), *asked]
            made = subprocess.run(command, capture_output=True, text=True, check=False)
            if made.returncode:
                unmet(f"no packages to read datasets with: {made.stderr}")
            stamp.write_text(wanted)
    return folder


def run(program: str, folder: Path, home: Path, given: str = "") -> list[str]:
    """The lines that a program of ours prints, these packages before all others."""
    # Ultralytics keeps settings in its user's home, and would ask its makers for news.
    environment = os.environ | {"PYTHONPATH": str(folder), "HOME": str(home), "YOLO_OFFLINE": "true"}
    command = [sys.executable, str(HERE / program)]
    done = subprocess.run(
        command, input=given, env=environment, capture_output=True, text=True, timeout=PATIENCE_S, check=False
    )
    assert done.returncode == 0, done.stderr
    return [line.removeprefix("FOUND ") for line in done.stdout.splitlines() if line.startswith("FOUND ")]


@pytest.fixture(scope="module")
def datasets(server: RunningServer, photos: dict[str, Photo], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two photographs, one in a folder, and a picture of nothing, in every format, pictures where tools want them."""
    pictures, out = tmp_path_factory.mktemp("photos"), tmp_path_factory.mktemp("datasets")
    (pictures / "deep").mkdir()
    (pictures / "astronaut.jpg").write_bytes(photos["astronaut"].jpeg)
    (pictures / "deep" / "cat.jpg").write_bytes(photos["chelsea"].jpeg)
    PIL.Image.new("RGB", (90, 60)).save(pictures / "nothing.png")
    formats = "coco,coco-polygons,yolo,cvat,cvat-polygons,voc"
    command = ["segment", str(pictures), "--text", "face . person . cat face", "--format", formats, "--out", str(out)]
    assert main([*command, "--server", server.address, "--quiet"]) == 0
    for place in ("coco/images/default", "cvat/images", "voc/JPEGImages", *(f"{form}/images" for form in POLYGONS)):
        shutil.copytree(pictures, out / place)
    (out / "coco" / "annotations").mkdir()
    shutil.copy(out / "coco.json", out / "coco" / "annotations" / "instances_default.json")
    return out


@pytest.fixture(scope="module")
def expected(datasets: Path) -> Found:
    """By the exact masks of COCO."""
    coco = COCO(datasets / "coco.json")
    stems = {number: Path(image["file_name"]).with_suffix("").as_posix() for number, image in coco.imgs.items()}
    found: Found = {stem: [] for stem in stems.values()}
    for each in coco.anns.values():
        label = coco.cats[each["category_id"]]["name"]
        found[stems[each["image_id"]]].append((label, coco.annToMask(each).astype(bool)))
    assert {stem: [label for label, _ in objects] for stem, objects in found.items()} == {
        "astronaut": ["face", "person"],
        "deep/cat": ["cat face"],
        "nothing": [],
    }
    return found


def same(line: str, expected: Found, form: str) -> None:
    """What was read is what was found, in the pictures that were read or all."""
    read = json.loads(line)
    for stem, objects in expected.items():
        masks = dict(read.get(stem, []))
        assert sorted(masks) == sorted(label for label, _ in objects), stem
        for label, mask in objects:
            got = coco_mask.decode({"size": mask.shape, "counts": masks[label]}).astype(bool)
            front = [other for _, other in objects if other.sum() < mask.sum()]
            seen = mask & ~np.any(front, axis=0) if form == "voc" and front else mask
            iou = (got & seen).sum() / (got | seen).sum()
            # The tools draw the pixels on an edge, and on the cuts that lead to holes, in different ways.
            assert iou > 0.96 if form in POLYGONS else iou == 1, (stem, label, iou)


def test_the_tools_read_what_was_found(
    datasets: Path, expected: Found, server: RunningServer, tmp_path: Path, subtests: pytest.Subtests
) -> None:
    """Exact where the format has masks; polygons but for the edge; in label maps the smallest is in front."""
    picture = datasets / "voc" / "JPEGImages" / "astronaut.jpg"
    given = [f"{reader} {datasets / folder} {form}\n" for reader, folder, form in READERS]
    given.append(f"to_supervision {picture} {server.address}\n")
    folder = packages("readers", "--no-deps", "-r", str(HERE / "readers-requirements.txt"))
    *lines, converted = run("readers.py", folder, tmp_path, "".join(given))
    for (reader, form, _), line in zip(READERS, lines, strict=True):
        with subtests.test(f"{reader} reads {form}"):
            # supervision looks into no folders within that of YOLO's pictures.
            flat = (reader, form) == ("supervision", "yolo")
            same(line, {stem: found for stem, found in expected.items() if not (flat and "/" in stem)}, form)
    with subtests.test("supervision takes a result"):
        same(converted, {"astronaut": expected["astronaut"]}, "")


@pytest.mark.skipif("CUTOUT_FIFTYONE" not in os.environ, reason="800 MB of packages; CUTOUT_FIFTYONE=1 installs them")
def test_fiftyone_reads_what_was_found(datasets: Path, expected: Found, server: RunningServer, tmp_path: Path) -> None:
    """As a dataset, and as samples; all but its database."""
    picture = datasets / "voc" / "JPEGImages" / "astronaut.jpg"
    given = f"fiftyone {datasets / 'coco'} coco\nto_fiftyone {picture} {server.address}\n"
    read, converted = run("readers.py", packages("fiftyone", "fiftyone==1.22.1"), tmp_path, given)
    same(read, expected, "coco")
    same(converted, {"astronaut": expected["astronaut"]}, "")
