"""Results in other tools' forms, read back by these tools: every mask comes back."""

import json
import sys
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from xml.etree import ElementTree as ET

import numpy as np
import PIL.Image
import pytest
import shapely.geometry
from conftest import RunningServer
from cutout.v1 import mask_pb2, segmentation_pb2
from cutout_client import Segmentation, exports
from cutout_client.cli import main
from cutout_client.exports.label_studio import brush_rle
from cutout_client.exports.lines import line_of, line_of_all
from cutout_client.images import PixelPicture
from cutout_client.responses import read_segmentation
from cutout_common.masks import polygons_decode, rle_encode
from cutout_server.convert.responses import write_mask as message_of
from cutout_server.imaging.masks import polygons
from cutout_server.types import MaskPatch
from hypothesis import given, settings
from masks_fixtures import MASKS
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # pycocotools

HEIGHT, WIDTH = 60, 90


def pierced() -> np.ndarray:
    """Two parts, one with two holes."""
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[5:45, 8:50] = True
    mask[10:20, 12:25] = mask[25:40, 20:45] = False
    mask[20:58, 60:85] = True
    return mask


def disc() -> np.ndarray:
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    return np.hypot(y - 30, x - 34) < 12


FOUND = [("cat & dog", pierced(), 0.75), ("", disc(), 0.5), ("cat & dog", np.pad([[True]], ((3, 56), (70, 19))), 0.25)]


def result_of(objects: list[tuple[str, np.ndarray, float]]) -> Segmentation:
    """An answer as the server sends it, with RLE and polygons."""
    message = segmentation_pb2.Segmentation(models=["builtin"])
    message.image.height, message.image.width = objects[0][1].shape if objects else (HEIGHT, WIDTH)
    for label, mask, score in objects:
        each = message.objects.add(label=label, predicted_iou=score, area=int(mask.sum()))
        rows, columns = np.nonzero(mask)
        each.box.x_min, each.box.y_min = columns.min(), rows.min()
        each.box.x_max, each.box.y_max = columns.max() + 1, rows.max() + 1
        each.masks.add(rle=mask_pb2.RleMask(size=mask.shape, counts=rle_encode(mask)))
        each.masks.append(message_of(polygons(MaskPatch.of(mask))))
    picture = PixelPicture(np.zeros((message.image.height, message.image.width, 3), np.uint8))
    return read_segmentation(message, picture, "id")


@pytest.fixture(scope="module")
def result() -> Segmentation:
    return result_of(FOUND)


def exported(form: str, folder: Path, result: Segmentation) -> Path:
    """A dataset of this picture and of one in which nothing was found."""
    dataset = exports.EXPORTS[form](folder)
    dataset.add("deep/cat.jpg", result)
    dataset.add("nothing.png", result_of([]))
    files = dataset.save()
    assert files
    assert all(file.is_file() and file.is_relative_to(folder) for file in files)
    assert {file for file in folder.rglob("*") if file.is_file()} == set(files)
    return folder


@settings(max_examples=100, deadline=None)
@given(MASKS)
def test_lines_enclose_what_polygons_do(mask: np.ndarray) -> None:
    """Holes and parts that are joined by cuts of no width fill the same pixels."""
    if mask.any():
        parts = result_of([("", mask, 0.5)])[0].polygons
        assert np.array_equal(polygons_decode(*mask.shape, [[line_of_all(parts)]]), mask)
        assert np.array_equal(polygons_decode(*mask.shape, [[line_of(part)] for part in parts]), mask)


@settings(max_examples=30, deadline=None)
@given(MASKS)
def test_label_studio_reads_the_brush(mask: np.ndarray) -> None:
    """Whatever the mask, by its own decoder."""
    assert np.array_equal(read_brush(brush_rle(mask), mask.shape), mask)


def read_brush(rle: list[int], shape: tuple[int, ...]) -> np.ndarray:
    from label_studio_sdk.converter.brush import decode_rle  # noqa: PLC0415 - takes long to import

    return decode_rle(rle).reshape(*shape, 4)[..., 3] == 255


def test_brushes_may_be_large() -> None:
    """Runs longer than any length of the format are cut."""
    mask = np.zeros((500, 700), np.bool_)
    mask[100:400] = True
    mask[250, 3] = False
    assert np.array_equal(read_brush(brush_rle(mask), mask.shape), mask)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of the kit itself
def test_label_studio_tasks(tmp_path: Path, result: Segmentation) -> None:
    """Predictions name the tags of the configuration beside them, which its own parser accepts; masks come back."""
    from label_studio_sdk.label_interface import LabelInterface  # noqa: PLC0415 - takes long to import

    for form, kind in (("label-studio", "brushlabels"), ("label-studio-polygons", "polygonlabels")):
        folder = exported(form, tmp_path / form, result)
        interface = LabelInterface((folder / "config.xml").read_text())
        task, empty = json.loads((folder / "tasks.json").read_text())
        assert (task["data"], empty["predictions"][0]["result"]) == ({"image": "deep/cat.jpg"}, [])
        (prediction,) = task["predictions"]
        assert interface.validate_prediction(prediction)
        assert prediction["model_version"] == "builtin"
        regions = prediction["result"]
        assert len({region["id"] for region in regions}) == len(regions)
        assert [region["value"][kind] for region in regions][-2:] == [["object"], ["cat & dog"]]
        if kind == "brushlabels":
            for region, (_, mask, _) in zip(regions, FOUND, strict=True):
                assert np.array_equal(read_brush(region["value"]["rle"], mask.shape), mask)
        else:
            lines = [np.array(region["value"]["points"]) * [WIDTH / 100, HEIGHT / 100] for region in regions]
            assert np.array_equal(polygons_decode(HEIGHT, WIDTH, [[line] for line in lines[:2]]), pierced())


def test_coco_with_polygons(tmp_path: Path, result: Segmentation) -> None:
    """As pycocotools loads it; its drawing of the polygons is the mask but for the edge, and the RLE is exact."""
    coco = COCO(exported("coco-polygons", tmp_path, result) / "annotations.json")
    assert [image["file_name"] for image in coco.loadImgs(coco.getImgIds())] == ["deep/cat.jpg", "nothing.png"]
    for annotation, (_, mask, _) in zip(coco.loadAnns(coco.getAnnIds()), FOUND, strict=True):
        assert np.array_equal(coco_mask.decode(annotation["rle"]).astype(bool), mask)
        drawn = coco.annToMask(annotation).astype(bool)
        assert (drawn & mask).sum() / (drawn | mask).sum() > 0.97


def test_yolo(tmp_path: Path, result: Segmentation) -> None:
    """A line for each object, class first, in fractions; the classes are those of data.yaml."""
    yaml = pytest.importorskip("yaml")
    folder = exported("yolo", tmp_path, result)
    assert yaml.safe_load((folder / "data.yaml").read_text())["names"] == {0: "cat & dog", 1: "object"}
    assert (folder / "labels" / "nothing.txt").read_text() == ""
    rows = (folder / "labels" / "deep" / "cat.txt").read_text().splitlines()
    for row, number, (_, mask, _) in zip(rows, (0, 1, 0), FOUND, strict=True):
        found, *numbers = row.split()
        assert int(found) == number
        assert all(0 <= float(text) <= 1 for text in numbers)
        line = (np.array(numbers, float).reshape(-1, 2) * [WIDTH, HEIGHT]).round(3)
        assert np.array_equal(polygons_decode(HEIGHT, WIDTH, [[line]]), mask)


def test_cvat(tmp_path: Path, result: Segmentation) -> None:
    """Runs in a box, of what is outside first, as CVAT's XML has masks; or a polygon for each part."""
    root = ET.parse(exported("cvat", tmp_path / "masks", result) / "annotations.xml").getroot()
    assert [label.text for label in root.iterfind("meta/task/labels/label/name")] == ["cat & dog", "object"]
    image, empty = root.iterfind("image")
    assert image.attrib == {"id": "0", "name": "deep/cat.jpg", "width": str(WIDTH), "height": str(HEIGHT)}
    assert not len(empty)
    for element, (label, mask, _) in zip(image.iterfind("mask"), FOUND, strict=True):
        left, top, width, height = (int(element.attrib[name]) for name in ("left", "top", "width", "height"))
        runs = [int(run) for run in element.attrib["rle"].split(",")]
        inside = np.repeat(np.arange(len(runs)) % 2 == 1, runs).reshape(height, width)
        assert np.array_equal(np.pad(inside, ((top, HEIGHT - top - height), (left, WIDTH - left - width))), mask)
        assert element.attrib["label"] == (label or "object")
    root = ET.parse(exported("cvat-polygons", tmp_path / "polygons", result) / "annotations.xml").getroot()
    points = [element.attrib["points"] for element in root.iterfind("image/polygon")]
    lines = [np.array([pair.split(",") for pair in each.split(";")], float) for each in points]
    assert len(lines) == 4
    assert np.array_equal(polygons_decode(HEIGHT, WIDTH, [[line] for line in lines[:2]]), pierced())


def test_label_maps_and_voc(tmp_path: Path, result: Segmentation) -> None:
    """PNGs with VOC's palette whose pixels are classes or objects, the smallest in front; boxes count from 1."""
    expected = np.zeros((HEIGHT, WIDTH), np.int32)
    for number, (_, mask, _) in enumerate(FOUND, start=1):  # by falling area
        expected[mask] = number
    assert np.array_equal(result.to_label_map("object"), expected)
    expected[expected == 3] = 1  # of the same class
    assert np.array_equal(result.to_label_map(), expected)
    maps, voc = (exported(form, tmp_path / form, result) for form in ("label-map", "voc"))
    assert json.loads((maps / "classes.json").read_text()) == {"0": "background", "1": "cat & dog", "2": "object"}
    for path in (maps / "deep" / "cat.png", voc / "SegmentationClass" / "deep" / "cat.png"):
        with PIL.Image.open(path) as image:
            assert image.mode == "P"
            assert image.getpalette()[:9] == [0, 0, 0, 128, 0, 0, 0, 128, 0]
            assert np.array_equal(np.asarray(image), expected)
    with PIL.Image.open(voc / "SegmentationObject" / "deep" / "cat.png") as image:
        assert np.array_equal(np.asarray(image), result.to_label_map("object"))
    assert (voc / "ImageSets" / "Segmentation" / "default.txt").read_text() == "deep/cat\nnothing\n"
    assert (voc / "labelmap.txt").read_text().splitlines()[1:] == [
        "background:0,0,0::",
        "cat & dog:128,0,0::",
        "object:0,128,0::",
    ]
    annotation = ET.parse(voc / "Annotations" / "deep" / "cat.xml").getroot()
    assert annotation.findtext("filename") == "cat.jpg"
    assert [int(bound.text or "") for bound in annotation.find("object/bndbox") or ()] == [9, 6, 85, 58]


def test_more_labels_than_a_palette_has_are_refused(tmp_path: Path) -> None:
    """With the number; nothing is cut off in silence."""
    many = result_of([("", np.ones((1, 1), bool), 0.5)] * 255)
    with pytest.raises(ValueError, match="holds 254 labels, not 255"):
        exports.EXPORTS["voc"](tmp_path).add("many.png", many)


def test_shapely_and_geojson(tmp_path: Path, result: Segmentation) -> None:
    """Valid, of the mask's area; what a tool writes about several files is each file's own."""
    for feature, (label, mask, score), each in zip(result.to_geojson()["features"], FOUND, result, strict=True):
        shape = shapely.geometry.shape(feature["geometry"])
        assert shape.is_valid
        assert shape.equals(each.to_shapely())
        assert shape.area == mask.sum()
        assert feature["bbox"] == list(shape.bounds)
        assert feature["properties"] == {"label": label, "score": score, "area": mask.sum(), "prompt_index": 0}
    folder = exported("geojson", tmp_path, result)
    assert json.loads((folder / "deep" / "cat.geojson").read_text()) == result.to_geojson()
    without = read_segmentation(segmentation_pb2.Segmentation(objects=[{"masks": [{"png": b""}]}]), result.picture, "")
    with pytest.raises(ValueError, match="mask_formats"):
        without.to_geojson()


def test_supervision(result: Segmentation) -> None:
    """Detections of the real package: boxes, masks, scores, and one number for each label."""
    supervision = pytest.importorskip("supervision")
    detections = result.to_supervision()
    assert isinstance(detections, supervision.Detections)
    assert np.array_equal(detections.mask, [mask for _, mask, _ in FOUND])
    assert np.array_equal(detections.xyxy, result.boxes)
    assert detections.class_id.tolist() == [0, 1, 0]
    assert detections.confidence.tolist() == [0.75, 0.5, 0.25]
    assert len(result_of([]).to_supervision()) == 0


@pytest.fixture
def fiftyone(monkeypatch: pytest.MonkeyPatch) -> Iterator[types.ModuleType]:
    """Keeps what its classes are given: FiftyOne needs a database, and another Starlette than the gateway."""
    module = types.ModuleType("fiftyone")
    make: Callable[..., types.SimpleNamespace] = types.SimpleNamespace
    module.Sample = module.Detections = module.Detection = make
    monkeypatch.setitem(sys.modules, "fiftyone", module)
    return module


def test_fiftyone_samples(fiftyone: types.ModuleType, result: Segmentation) -> None:
    """As its documents describe detections: boxes as fractions, masks inside of them."""
    sample = result.to_fiftyone(Path("photos") / "cat.jpg", field="found")
    assert sample.filepath == str(Path("photos") / "cat.jpg")
    for detection, (label, mask, score) in zip(sample.found.detections, FOUND, strict=True):
        left, top, width, height = np.array(detection.bounding_box) * [WIDTH, HEIGHT, WIDTH, HEIGHT]
        window = np.zeros_like(mask)
        window[round(top) : round(top + height), round(left) : round(left + width)] = detection.mask
        assert np.array_equal(window, mask)
        assert (detection.label, detection.confidence) == (label or "object", score)


def test_a_package_that_is_missing_is_named(result: Segmentation, monkeypatch: pytest.MonkeyPatch) -> None:
    """With what installs it."""
    monkeypatch.setitem(sys.modules, "supervision", None)
    with pytest.raises(ModuleNotFoundError, match="to_supervision\\(\\) needs supervision: pip install supervision"):
        result.to_supervision()


def test_a_result_saves_itself_as_a_dataset(tmp_path: Path, result: Segmentation) -> None:
    """Under the names of `--format`, each in a folder of its own."""
    files = result.save(tmp_path, ["cvat", "yolo"], name="cat")
    assert [file.relative_to(tmp_path).as_posix() for file in files] == [
        "cat.cvat/annotations.xml",
        "cat.yolo/labels/cat.txt",
        "cat.yolo/data.yaml",
    ]


def test_the_command_line_writes_one_dataset_for_a_folder(
    server: RunningServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Polygons are asked for where a format needs them; pictures that are gone are gone from the dataset, too."""
    photos, out = tmp_path / "photos", tmp_path / "out"
    for name in ("disc.png", "deep/disc.jpg"):
        (photos / name).parent.mkdir(exist_ok=True, parents=True)
        image = PIL.Image.new("RGB", (WIDTH, HEIGHT), (30, 60, 40))
        image.paste((220, 180, 40), (20, 20, 60, 50))
        image.save(photos / name)
    formats = "yolo,cvat,voc,coco,coco-polygons"
    command = ["segment", str(photos), "--box", "15,15,65,55", "--out", str(out), "--server", server.address]
    command += ["--quiet", "--polygon-tolerance", "1"]
    assert main([*command, "--format", formats]) == 0
    labels = sorted(path.relative_to(out).as_posix() for path in out.rglob("*.txt"))
    assert labels[-2:] == ["yolo/labels/deep/disc.txt", "yolo/labels/disc.txt"]
    root = ET.parse(out / "cvat" / "annotations.xml").getroot()
    assert [image.attrib["name"] for image in root.iterfind("image")] == ["deep/disc.jpg", "disc.png"]
    polygons = json.loads((out / "coco-polygons" / "annotations.json").read_text())
    assert polygons["images"] == json.loads((out / "coco.json").read_text())["images"]
    assert all(len(annotation["segmentation"][0]) < 40 for annotation in polygons["annotations"])
    (photos / "disc.png").unlink()
    assert main([*command, "--format", "yolo"]) == 0
    assert [path.name for path in (out / "yolo" / "labels").rglob("*.txt")] == ["disc.txt"]
    assert (out / "cvat" / "annotations.xml").exists()
    assert capsys.readouterr().err == ""
