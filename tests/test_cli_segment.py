"""`cutout segment` as people run it: real files, a real server, a process of its own."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import PIL.ImageDraw
import pytest
from client_fixtures import cutout
from conftest import Photo, RunningServer
from cutout_client import Client, Segmentation
from cutout_client.cli import main, parser
from cutout_client.cli.arguments import with_negative_numbers
from pycocotools.coco import COCO

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # pycocotools

DISC = "15,15,85,95"


@pytest.fixture(scope="module")
def folder(photos: dict[str, Photo], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two pictures, one of them deeper, two of one name, and a file that is none."""
    root = tmp_path_factory.mktemp("pictures")
    (root / "deep" / "er").mkdir(parents=True)
    image = PIL.Image.new("RGB", (160, 120), (30, 60, 40))
    PIL.ImageDraw.Draw(image).ellipse((20, 20, 80, 90), fill=(220, 180, 40))
    image.save(root / "disc.jpg")
    image.save(root / "disc.png")
    (root / "deep" / "er" / "astronaut.JPG").write_bytes(photos["astronaut"].jpeg)
    (root / "notes.txt").write_text("no picture")
    return root


def test_one_file_by_box(server: RunningServer, folder: Path, tmp_path: Path) -> None:
    """A picture and a box leave an overlay and a mask, and a table that says so."""
    done = cutout(server.address, "segment", folder / "disc.jpg", "--box", DISC, "--out", tmp_path / "out")
    assert done.stderr == ""
    assert sorted(path.name for path in (tmp_path / "out").glob("[!.]*")) == ["disc.000.mask.png", "disc.overlay.png"]
    assert "disc.jpg" in done.stdout
    assert "1 of 1 pictures done" in done.stdout
    with Client(server.address) as client:
        expected = client.segment_box(folder / "disc.jpg", tuple(map(float, DISC.split(","))))[0].mask
    with PIL.Image.open(tmp_path / "out" / "disc.000.mask.png") as mask:
        np.testing.assert_array_equal(np.asarray(mask), expected)


@pytest.mark.slow
def test_folder_with_a_broken_file(server: RunningServer, folder: Path, tmp_path: Path) -> None:
    """A folder is searched to the bottom; a file that fails is named, the others are done, and the status is 1."""
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"no picture")
    out = tmp_path / "out"
    formats = "overlay,png,cutouts,rle,polygons,coco,npz"
    done = cutout(
        server.address,
        "segment",
        folder,
        broken,
        "missing.jpg",
        "--text",
        "face",
        "cat face",
        "--out",
        out,
        "--format",
        formats,
        code=1,
    )
    errors = done.stderr.splitlines()
    assert len(errors) == 2
    assert errors[0].startswith("cutout: error: broken.jpg: image.content: ")
    assert "(INVALID_ARGUMENT, IMAGE_FORMAT_UNKNOWN, request " in errors[0]
    assert errors[1] == "cutout: error: missing.jpg: there is no picture file missing.jpg"
    assert "3 of 5 pictures done" in done.stdout
    assert max(map(len, done.stdout.splitlines()[:-1])) <= 80
    assert (out / "deep" / "er" / "astronaut.overlay.png").exists()
    assert (out / "disc.overlay.png").exists()
    assert (out / "disc.png.overlay.png").exists()
    coco = COCO(str(out / "coco.json"))
    names = [image["file_name"] for image in coco.loadImgs(coco.getImgIds())]
    assert names == ["deep/er/astronaut.JPG", "disc.jpg", "disc.png"]
    assert "face" in [category["name"] for category in coco.loadCats(coco.getCatIds())]
    for annotation in coco.loadAnns(coco.getAnnIds()):
        assert coco.annToMask(annotation).sum() == annotation["area"]


@pytest.mark.parametrize(
    ("flags", "sent"),
    [
        (["--box", "-5,10,200,220"], {"boxes": [(-5, 10, 200, 220)]}),
        (
            ["--box", "-5,10,200,220", "1,2,3,4", "-.5,-1e1,3,4"],
            {"boxes": [(-5, 10, 200, 220), (1, 2, 3, 4), (-0.5, -10, 3, 4)]},
        ),
        (["--box=-5,10,200,220", "--mask-threshold", "-1e-1"], {"boxes": [(-5, 10, 200, 220)], "mask_threshold": -0.1}),
        (["--point", "-5,5", "7,-8,0"], {"points": [(-5, 5), (7, -8)]}),
        (["--point", "-5,5", "--mask-threshold", "-2"], {"points": [(-5, 5)], "mask_threshold": -2.0}),
    ],
)
def test_negative_numbers_are_values(flags: list[str], sent: dict, folder: Path, tmp_path: Path, monkeypatch) -> None:
    """Coordinates and numbers may begin with a minus: no flag looks like a number."""
    asked: list[tuple[Any, dict[str, Any]]] = []

    def noted(_client: Client, _picture: Path, prompts: Any, **options: Any) -> Segmentation:
        asked.append((prompts, options))
        raise ValueError("noted")

    monkeypatch.setattr(Client, "segment_box", noted)
    monkeypatch.setattr(Client, "segment_points", noted)
    monkeypatch.setattr(Client, "health", lambda _, **__: "serving")
    assert main(["segment", str(folder / "disc.jpg"), *flags, "--out", str(tmp_path)]) == 1
    ((prompts, options),) = asked
    if "boxes" in sent:
        assert prompts == sent["boxes"]
    else:
        assert [point[:2] for point in prompts.points] == sent["points"]
    assert options["mask_threshold"] == sent.get("mask_threshold")


@pytest.mark.parametrize("flag", ["--exemplar", "--not-like"])
def test_negative_exemplars_are_values(flag: str) -> None:
    """So may those of examples."""
    args = parser().parse_args(with_negative_numbers(["segment", "a.png", flag, "-5,10,200,220", "--text", "-5"]))
    (exemplar,) = args.exemplars
    assert tuple(getattr(exemplar, "box", exemplar)) == (-5, 10, 200, 220)
    assert args.text == ["-5"]


def test_json(server: RunningServer, folder: Path, tmp_path: Path) -> None:
    """Machines get one document a picture, in the order of the pictures, errors among them."""
    paths = [folder / "disc.jpg", tmp_path / "missing.jpg", folder / "disc.png"]
    flags = ["--point", "50,55", "120,60,0", "--box", DISC, "--out", tmp_path, "--json", "--jobs", "2"]
    done = cutout(server.address, "segment", *paths, *flags, code=1)
    first, second, third = map(json.loads, done.stdout.splitlines())
    assert first["picture"] == str(paths[0])
    assert (first["width"], first["height"]) == (160, 120)
    assert first["objects"][0]["area"] > 0
    assert [Path(path).exists() for path in first["files"]] == [True, True]
    assert first["request_id"]
    assert "missing.jpg" in second["error"]["message"]
    assert third["objects"]


def test_everything_quietly(server: RunningServer, folder: Path, tmp_path: Path) -> None:
    """--quiet prints nothing when all goes well."""
    flags = ["--everything", "--max-objects", "2", "--quiet", "--format", "rle", "--out", tmp_path]
    done = cutout(server.address, "segment", folder / "disc.jpg", *flags)
    assert done.stdout == done.stderr == ""
    assert len(json.loads((tmp_path / "disc.rle.json").read_text())) <= 2


@pytest.mark.parametrize(
    ("flags", "text"),
    [
        ([], "say what to cut out"),
        (["--text", "cat", "--everything"], "--text and --everything cannot go together"),
        (["--box", "1,2,3"], "expected x_min,y_min,x_max,y_max, got '1,2,3'"),
        (["--point", "a,b"], "expected x,y or x,y,label, got 'a,b'"),
        (["--box", DISC, DISC, "--point", "1,2"], "one --box at most"),
        (["--box", DISC, "--box-threshold", "0.5"], "--box-threshold has no use"),
        (["--everything", "--detector", "builtin"], "--detector has no use"),
        (["--text", "cat", "--format", "svg"], "--format takes overlay, png"),
        (["--text", "cat", "--jobs", "0"], "--jobs must be at least 1"),
        (["--text", "cat", "--strategy", "biggest"], "invalid choice: 'biggest'"),
        (["--text", "cat", "--no-such-flag"], "unrecognized arguments: --no-such-flag"),
        (["--text", "cat", "--max-object", "3"], "--max-object 3; did you mean --max-objects?"),
        (["--text", "cat", "--bx", "1,2,3,4"], "; did you mean --box? (`cutout segment --help` lists all)\n"),
        (["--box", "-5,x,3,4"], "expected x_min,y_min,x_max,y_max, got '-5,x,3,4'"),
    ],
)
def test_flags_that_cannot_be_used(flags: list[str], text: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Flags that mean nothing end the command with status 2 and one line that says why."""
    with pytest.raises(SystemExit) as caught:
        main(["segment", "a.jpg", *flags])
    assert caught.value.code == 2
    (line,) = capsys.readouterr().err.splitlines(keepends=True)
    assert text in line


def test_empty_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A folder without pictures is an error, not a success that did nothing."""
    assert main(["segment", str(tmp_path), "--everything", "--out", str(tmp_path / "out")]) == 1
    assert capsys.readouterr().err == f"cutout: error: there is no picture in {tmp_path}\n"
