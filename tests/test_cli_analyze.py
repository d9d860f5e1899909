"""`cutout analyze`, and `cutout segment` with examples and rewriting, as people run them: a process of their own."""

import json
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
from analysis_fixtures import Analysis, analysis, clip_folder, words  # noqa: F401 - fixtures
from client_fixtures import ScriptedServer, cutout, scripted_server
from conftest import Photo
from cutout_client import Client
from cutout_client.cli import main
from language_model import LanguageModel

CONCEPTS = ["--concept", "a cat", "a rocket", "--concept", "a cup of coffee"]
CAT = "50,10,200,145"


@pytest.fixture(scope="module")
def folder(photos: dict[str, Photo], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two photographs at a third of their size."""
    root = tmp_path_factory.mktemp("pictures")
    for name, step in (("chelsea", 2), ("rocket", 4)):
        PIL.Image.fromarray(photos[name].pixels[::step, ::step].copy()).save(root / f"{name}.png")
    return root


def test_one_picture_in_full(analysis: Analysis, folder: Path, tmp_path: Path) -> None:  # noqa: F811
    """Every concept of the picture with its score, then each region with its best, its area and its box."""
    picture = folder / "chelsea.png"
    flags = ["--point", "30,100", "--box", CAT, "--out", tmp_path]
    done = cutout(analysis.address, "analyze", picture, *CONCEPTS, *flags)
    assert done.stderr == ""
    with Client(analysis.address) as client:
        regions = [(30, 100), (50, 10, 200, 145)]
        concepts = ["a cat", "a rocket", "a cup of coffee"]
        expected = client.analyze(picture, concepts, regions=regions, classifier="clip")
    lines = done.stdout.splitlines()
    assert lines[0] == "chelsea.png  226 x 150"
    at = lines.index(next(line for line in lines if line.startswith("PICTURE SHOWS")))
    assert expected.concepts is not None
    for each, line in zip(expected.concepts, lines[at + 1 :], strict=False):
        assert line.startswith(each.concept)
        assert f" {each.score:.2f} " in line
    at = lines.index(next(line for line in lines if line.startswith("OBJECT")))
    for index, (each, line) in enumerate(zip(expected, lines[at + 1 :], strict=False)):
        best = each.concepts.best if each.concepts else None
        assert best is not None
        assert line.split()[1] == str(index)
        assert best.concept in line
        assert f"{100 * each.area / 226 / 150:.1f} %" in line
        assert line.rstrip().endswith(",".join(f"{value:g}" for value in each.box))
    assert "builtin, clip" in done.stdout
    assert max(map(len, lines[:-1])) <= 80
    names = [each.name.replace(" ", "_") for each in expected]
    files = {f"chelsea.{index:03}-{name}.mask.png" for index, name in enumerate(names)} | {"chelsea.overlay.png"}
    assert {path.name for path in tmp_path.glob("[!.]*")} == files


@pytest.mark.slow
def test_several_pictures(analysis: Analysis, folder: Path, tmp_path: Path) -> None:  # noqa: F811
    """A row for each picture with its best concept; one that fails is named, and the status is 1."""
    flags = ["--max-objects", "3", "--format", "coco", "--out", tmp_path]
    done = cutout(analysis.address, "analyze", folder, "missing.png", *CONCEPTS, *flags, code=1, columns=200)
    assert done.stderr == "cutout: error: missing.png: there is no picture file missing.png\n"
    rows = done.stdout.splitlines()
    assert [row.split()[0] for row in rows[:4]] == ["PICTURE", "chelsea.png", "rocket.png", "missing.png"]
    assert "failed" in rows[3]
    assert rows[-1] == f"2 of 3 pictures done, files in {tmp_path}/"
    dataset = json.loads((tmp_path / "coco.json").read_text())
    assert [sum(image["concepts"].values()) for image in dataset["images"]] == pytest.approx([1, 1])
    assert len(dataset["annotations"]) == 6
    assert {category["name"] for category in dataset["categories"]} <= {"a cat", "a rocket", "a cup of coffee"}


@pytest.mark.slow
def test_many_objects_are_not_all_listed(analysis: Analysis, folder: Path, tmp_path: Path) -> None:  # noqa: F811
    """A long table is cut off, and says so."""
    flags = ["--box", *["60,40,90,70"] * 30, "--format", "rle", "--out", tmp_path]
    done = cutout(analysis.address, "analyze", folder / "chelsea.png", *CONCEPTS, *flags)
    assert "... and 6 more; --json lists them all" in done.stdout
    assert len(json.loads((tmp_path / "chelsea.rle.json").read_text())) == 30


def test_json(analysis: Analysis, folder: Path, tmp_path: Path) -> None:  # noqa: F811
    """Machines get every score, of the picture and of each object."""
    flags = ["--box", CAT, "--template", "{}", "--json", "--out", tmp_path]
    done = cutout(analysis.address, "analyze", folder / "chelsea.png", *CONCEPTS, *flags)
    answer = json.loads(done.stdout)
    assert sum(answer["concepts"].values()) == pytest.approx(1)
    assert list(answer["concepts"].values()) == sorted(answer["concepts"].values(), reverse=True)
    assert answer["objects"][0]["concepts"].keys() == answer["concepts"].keys()
    assert answer["timings"]["classify_ms"] > 0


@pytest.mark.slow
def test_rewriting(analysis: Analysis, words: LanguageModel, folder: Path, tmp_path: Path) -> None:  # noqa: F811
    """What was looked for is printed; when nothing was rewritten a warning says why."""
    flags = ["--text", "the colour of ripe bananas", "--rewrite", "--out", tmp_path]
    words.says((0, "yellow"), (0, "brown"))
    done = cutout(analysis.address, "segment", folder / "chelsea.png", *flags)
    assert "looked for: yellow, brown\n" in done.stdout
    assert done.stderr == ""
    document = cutout(analysis.address, "segment", folder / "chelsea.png", *flags, "--json").stdout
    phrases = [{"phrase": "yellow", "prompt_index": 0}, {"phrase": "brown", "prompt_index": 0}]
    assert json.loads(document)["rewriting"] == {"phrases": phrases, "failure": ""}
    words.status = 500
    flags[1] = "brown"
    done = cutout(analysis.address, "segment", folder / "chelsea.png", *flags)
    assert "looked for: brown\n" in done.stdout
    reason = "the language model's server answered with HTTP status 500"
    assert done.stderr == f"cutout: warning: phrases not rewritten: {reason}\n"


def test_flags_become_requests(folder: Path, tmp_path: Path) -> None:
    """Examples alone mean the phrase "visual"; examples, repeated flags and crops reach the server."""
    picture, out = folder / "chelsea.png", ["--out", tmp_path, "--format", "rle"]
    crops = ["--crop-layers", "1", "--crop-overlap", "0.25", "--crop-points-downscale", "2", "--crop-nms-iou", "0.5"]
    with scripted_server() as script:
        _run(script, picture, "--exemplar", CAT, "--not-like", "1,2,3,4", "5,6,7,8", "--box-nms-iou", "0", *out)
        _run(script, picture, "--text", "cat", "--text", "dog", "--exemplar", CAT, "--rewrite", *out)
        _run(script, picture, "--everything", "--stability-offset", "2", "--box-nms-iou", "1", *crops, *out)
    visual, both, everything = script.requests
    assert list(visual.phrases) == ["visual"]
    assert [(each.box.x_min, each.negative) for each in visual.exemplars] == [(50, False), (1, True), (5, True)]
    assert visual.HasField("box_nms_iou")
    assert (list(both.phrases), both.rewrite, len(both.exemplars)) == (["cat", "dog"], True, 1)
    assert (everything.crop_layers, everything.crop_points_downscale) == (1, 2)
    assert (everything.crop_overlap, everything.crop_nms_iou) == (0.25, 0.5)
    assert (everything.stability_offset, everything.box_nms_iou) == (2, 1)


def _run(script: ScriptedServer, *arguments: object) -> None:
    assert main(["segment", *map(str, arguments), "--server", script.address, "--quiet"]) == 0


@pytest.mark.parametrize(
    ("command", "flags", "text"),
    [
        ("analyze", [], "the following arguments are required: --concept"),
        ("analyze", ["--concept", "cat", "--box", "1,2"], "expected x_min,y_min,x_max,y_max, got '1,2'"),
        ("analyze", ["--concept", "cat", "--point", "1,2,0"], "expected x,y, got '1,2,0'"),
        ("analyze", ["--concept", "cat", "--format", "svg"], "--format takes overlay, png"),
        ("segment", ["--exemplar", CAT, "--box", CAT], "--exemplar has no use"),
        ("segment", ["--box", CAT, "--rewrite"], "--rewrite has no use"),
        ("segment", ["--text", "cat", "--crop-layers", "0"], "--crop-layers has no use"),
        ("segment", ["--point", "1,2", "--box-nms-iou", "0.5"], "--box-nms-iou has no use"),
    ],
)
def test_flags_that_cannot_be_used(
    command: str, flags: list[str], text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Flags that mean nothing end the command with status 2 and the reason."""
    with pytest.raises(SystemExit) as caught:
        main([command, "a.jpg", *flags])
    assert caught.value.code == 2
    assert text in capsys.readouterr().err


def test_overlay_has_the_labels(analysis: Analysis, folder: Path, tmp_path: Path) -> None:  # noqa: F811
    """The overlay that is written is the client's, with the concepts on it."""
    cutout(analysis.address, "analyze", folder / "chelsea.png", *CONCEPTS, "--box", CAT, "--out", tmp_path, "--quiet")
    with Client(analysis.address) as client:
        concepts = ["a cat", "a rocket", "a cup of coffee"]
        box = (50, 10, 200, 145)
        expected = client.analyze(folder / "chelsea.png", concepts, regions=box, classifier="clip").overlay()
    with PIL.Image.open(tmp_path / "chelsea.overlay.png") as drawn:
        np.testing.assert_array_equal(np.asarray(drawn), np.asarray(expected))
