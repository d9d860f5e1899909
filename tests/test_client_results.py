"""What results can do, on answers made by hand in each encoding."""

import io
import json
import pickle
from pathlib import Path

import numpy as np
import PIL.Image
import pycocotools.mask
import pytest
from cutout.v1 import mask_pb2, segmentation_pb2
from cutout_client import Client, CocoDataset, Segmentation, UnavailableError
from cutout_client.images import FilePicture, PixelPicture, RemotePicture
from cutout_client.responses import read_segmentation
from pycocotools.coco import COCO

# pycocotools' own way to build arrays is out of date.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

HEIGHT, WIDTH = 40, 61
PIXELS = np.random.default_rng(1).integers(0, 255, (HEIGHT, WIDTH, 3), np.uint8)


def file_of(form: str) -> bytes:
    file = io.BytesIO()
    PIL.Image.fromarray(PIXELS).save(file, form)
    return file.getvalue()


def ring_mask() -> np.ndarray:
    """A square with a square hole."""
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[5:25, 10:40] = True
    mask[12:18, 20:30] = False
    return mask


def encoded(mask: np.ndarray, form: str) -> mask_pb2.Mask:
    """The mask as the contract says it, by pycocotools, Pillow, numpy, and hand."""
    if form == "rle":
        rle = pycocotools.mask.encode(np.asfortranarray(mask.astype(np.uint8)))
        return mask_pb2.Mask(rle=mask_pb2.RleMask(size=rle["size"], counts=rle["counts"].decode()))
    if form == "bits":
        data = np.packbits(mask, axis=1).tobytes()
        return mask_pb2.Mask(bits=mask_pb2.BitMask(height=HEIGHT, width=WIDTH, data=data))
    if form == "png":
        file = io.BytesIO()
        PIL.Image.fromarray(mask).save(file, "PNG")
        return mask_pb2.Mask(png=file.getvalue())
    exterior = mask_pb2.Ring(coordinates=[10, 5, 40, 5, 40, 25, 10, 25])
    hole = mask_pb2.Ring(coordinates=[20, 12, 20, 18, 30, 18, 30, 12])
    polygon = mask_pb2.Polygon(exterior=exterior, holes=[hole])
    return mask_pb2.Mask(polygons=mask_pb2.PolygonMask(height=HEIGHT, width=WIDTH, polygons=[polygon]))


def answer(*forms: str, labels: tuple[str, ...] = ("cat",), picture: object = None) -> Segmentation:
    """An answer whose objects all are the ring."""
    message = segmentation_pb2.Segmentation(models=["builtin"])
    message.image.width, message.image.height = WIDTH, HEIGHT
    for label in labels:
        each = message.objects.add(label=label, predicted_iou=0.5, area=int(ring_mask().sum()))
        each.box.x_min, each.box.y_min, each.box.x_max, each.box.y_max = 10, 5, 40, 25
        each.masks.extend(encoded(ring_mask(), form) for form in forms or ("rle",))
    return read_segmentation(message, picture or PixelPicture(PIXELS), "id")


@pytest.mark.parametrize("form", ["rle", "png", "bits", "polygons"])
def test_mask_from_each_encoding(form: str) -> None:
    """The mask comes out the same whatever it travelled in, decoded once, and cannot be written to."""
    each = answer(form)[0]
    assert each.mask.dtype == bool
    np.testing.assert_array_equal(each.mask, ring_mask())
    assert each.mask is each.mask
    with pytest.raises(ValueError, match="read-only"):
        each.mask[0, 0] = True


@pytest.mark.parametrize("form", ["rle", "png", "bits", "polygons"])
def test_rle_and_png_from_each_encoding(form: str) -> None:
    """RLE, as pycocotools reads it, and PNG, as Pillow does, are there whatever was asked for."""
    each = answer(form)[0]
    np.testing.assert_array_equal(pycocotools.mask.decode(json.loads(json.dumps(each.rle))), ring_mask())
    with PIL.Image.open(io.BytesIO(each.png)) as image:
        assert image.mode == "1"
        np.testing.assert_array_equal(np.asarray(image), ring_mask())


def test_polygons() -> None:
    """Outlines come with their holes when they were asked for, and say how to ask when they were not."""
    (outline,) = answer("rle", "polygons")[0].polygons
    assert outline.exterior.shape == (4, 2)
    assert [hole.tolist() for hole in outline.holes] == [[[20, 12], [20, 18], [30, 18], [30, 12]]]
    with pytest.raises(ValueError, match="mask_formats"):
        _ = answer("rle")[0].polygons


def test_unknown_encoding() -> None:
    """An encoding that a newer server may send is refused, not taken for an empty mask."""
    message = segmentation_pb2.Segmentation()
    message.objects.add().masks.add()
    with pytest.raises(ValueError, match="does not know"):
        _ = read_segmentation(message, PixelPicture(PIXELS), "")[0].mask


def test_result_is_a_sequence() -> None:
    """A result has a length, items, and arrays over all objects; an empty one is false, its arrays of no rows."""
    result = answer(labels=("cat", "dog"))
    assert [each.label for each in result] == ["cat", "dog"]
    assert (len(result), result[1].label, result.labels) == (2, "dog", ("cat", "dog"))
    assert result.masks.shape == (2, HEIGHT, WIDTH)
    np.testing.assert_array_equal(result.masks[1], ring_mask())
    np.testing.assert_array_equal(result.boxes, [[10, 5, 40, 25]] * 2)
    assert result.scores.tolist() == [0.5, 0.5]
    empty = answer(labels=())
    assert not empty
    assert (empty.masks.shape, empty.boxes.shape, empty.scores.shape) == ((0, HEIGHT, WIDTH), (0, 4), (0,))


def test_coco_is_loaded_by_pycocotools(tmp_path: Path) -> None:
    """A dataset of several pictures loads in pycocotools with the same masks, areas, boxes and categories."""
    dataset = CocoDataset()
    dataset.add("a.jpg", answer(labels=("cat", "dog")))
    dataset.add("b.jpg", answer("png", labels=("dog", "")))
    file = tmp_path / "coco.json"
    file.write_text(json.dumps(dataset.to_dict()))
    coco = COCO(str(file))
    assert [image["file_name"] for image in coco.loadImgs(coco.getImgIds())] == ["a.jpg", "b.jpg"]
    names = {category["id"]: category["name"] for category in coco.loadCats(coco.getCatIds())}
    assert sorted(names.values()) == ["cat", "dog", "object"]
    annotations = coco.loadAnns(coco.getAnnIds())
    assert [names[each["category_id"]] for each in annotations] == ["cat", "dog", "dog", "object"]
    assert len({each["id"] for each in annotations}) == 4
    for each in annotations:
        np.testing.assert_array_equal(coco.annToMask(each), ring_mask())
        assert each["area"] == pycocotools.mask.area(coco.annToRLE(each)) == ring_mask().sum()
        assert each["bbox"] == list(pycocotools.mask.toBbox(coco.annToRLE(each))) == [10, 5, 30, 20]
        assert each["score"] == 0.5


def test_to_coco() -> None:
    """One result gives its annotations alone, counts as text."""
    first, second = answer(labels=("cat", "dog")).to_coco()
    assert (first["id"], second["id"], first["category_id"], second["category_id"]) == (1, 2, 1, 2)
    assert isinstance(first["segmentation"]["counts"], str)


def test_results_compare_and_travel() -> None:
    """Equal answers are equal, and a result can be sent to another process whole."""
    result = answer(labels=("cat", "dog"))
    assert result == answer(labels=("cat", "dog"))
    assert result != answer(labels=("cat", "cow"))
    again = pickle.loads(pickle.dumps(result))  # noqa: S301
    assert again == result
    np.testing.assert_array_equal(again[0].mask, ring_mask())
    assert "array" not in repr(result)


def test_overlay_changes_the_object_alone() -> None:
    """The overlay has the picture's size; the object's pixels differ from the picture, those far from it do not."""
    image = np.asarray(answer(labels=("",)).overlay())
    assert image.shape == PIXELS.shape
    assert (image[7:10, 12:38] != PIXELS[7:10, 12:38]).any(axis=2).mean() > 0.9
    np.testing.assert_array_equal(image[30:, 45:], PIXELS[30:, 45:])


def test_overlay_on_another_picture() -> None:
    """The overlay is drawn on the picture that is given; one of another size is refused."""
    white = np.full((HEIGHT, WIDTH, 3), 255, np.uint8)
    assert np.asarray(answer().overlay(white))[30:, 45:].min() == 255
    with pytest.raises(ValueError, match=r"61 x 41.*61 x 40"):
        answer().overlay(np.zeros((HEIGHT + 1, WIDTH, 3), np.uint8))


def test_overlay_without_a_picture() -> None:
    """A picture that is on the server's side alone cannot be drawn upon, and the error says what to do."""
    with pytest.raises(ValueError, match="pass a local one"):
        answer(picture=RemotePicture(uri="https://example.org/cat.jpg")).overlay()


def test_cutouts() -> None:
    """A cutout has the box's size, the picture's colours and the mask as its alpha."""
    (image,) = answer().cutouts()
    rgba = np.asarray(image)
    np.testing.assert_array_equal(rgba[..., :3], PIXELS[5:25, 10:40])
    np.testing.assert_array_equal(rgba[..., 3] == 255, ring_mask()[5:25, 10:40])


def test_save_every_format(tmp_path: Path) -> None:
    """Each format is written, named after the picture, and can be read back."""
    photo = tmp_path / "my cat.png"
    PIL.Image.fromarray(PIXELS).save(photo)
    result = answer("rle", "polygons", labels=("remote control/2", ""), picture=FilePicture(photo))
    formats = ("overlay", "png", "cutouts", "rle", "polygons", "coco", "npz")
    files = result.save(tmp_path / "new" / "folder", formats)
    assert [file.name for file in files] == [
        "my cat.overlay.png",
        "my cat.000-remote_control_2.mask.png",
        "my cat.001.mask.png",
        "my cat.000-remote_control_2.cutout.png",
        "my cat.001.cutout.png",
        "my cat.rle.json",
        "my cat.polygons.json",
        "my cat.coco.json",
        "my cat.npz",
    ]
    overlay, mask, _, cutout, _, rle, polygons, coco, npz = files
    for file, size in ((overlay, (WIDTH, HEIGHT)), (mask, (WIDTH, HEIGHT)), (cutout, (30, 20))):
        with PIL.Image.open(file) as image:
            assert image.size == size
    described = json.loads(rle.read_text())
    assert described[0]["label"] == "remote control/2"
    np.testing.assert_array_equal(pycocotools.mask.decode(described[0]["rle"]), ring_mask())
    assert json.loads(polygons.read_text())[1]["polygons"][0]["exterior"][0] == [10, 5]
    np.testing.assert_array_equal(
        COCO(str(coco)).annToMask(json.loads(coco.read_text())["annotations"][1]), ring_mask()
    )
    with np.load(npz) as arrays:
        assert arrays["masks"].shape == (2, HEIGHT, WIDTH)
        assert arrays["labels"].tolist() == ["remote control/2", ""]


@pytest.mark.parametrize(
    ("picture", "name", "file_name"),
    [
        (FilePicture(Path("photos/my cat.JPEG")), "", "my cat.JPEG"),
        (FilePicture(Path("photos/my cat.JPEG")), "else", "my cat.JPEG"),
        (FilePicture(file_of("JPEG")), "", "picture.jpg"),
        (FilePicture(file_of("WEBP")), "cat", "cat.webp"),
        (FilePicture(b"what no program knows"), "cat", "cat"),
        (PixelPicture(PIXELS), "", "picture.png"),
        (PixelPicture(PIXELS), "cat.v2", "cat.v2.png"),
        (RemotePicture(uri="https://host/a%20b/my%20cat.jpg?size=large#top"), "", "my cat.jpg"),
        (RemotePicture(image_id="f00", local=FilePicture(file_of("PNG"))), "cat", "cat.png"),
        (RemotePicture(image_id="f00", local=FilePicture(Path("cat.tif"))), "", "cat.tif"),
        (RemotePicture(image_id="f00"), "", "f00"),
    ],
)
def test_coco_names_the_file(picture: object, name: str, file_name: str, tmp_path: Path) -> None:
    """`file_name` is the picture file's own, or the name of what was saved with the ending of what the picture is."""
    (coco,) = answer(picture=picture).save(tmp_path, ["coco"], name=name)
    assert json.loads(coco.read_text())["images"][0]["file_name"] == file_name


def test_save_refuses_unknown_formats(tmp_path: Path) -> None:
    """An unknown format is refused before anything is written."""
    with pytest.raises(ValueError, match=r"formats must be one of overlay, .*, not 'svg'"):
        answer().save(tmp_path / "out", ["png", "svg"])
    assert not (tmp_path / "out").exists()


def test_missing_picture_is_a_file_error() -> None:
    """A path that names no file is a FileNotFoundError with the path, before anything is sent."""
    with Client("127.0.0.1:1", retries=0) as client:
        with pytest.raises(FileNotFoundError, match=r"no-such\.jpg"):
            client.segment_text("no-such.jpg", "cat")
        with pytest.raises(UnavailableError):
            client.segment_text(PIXELS, "cat")
