"""SegmentationService through the real stack: requests in, masks out."""

import io
import json
from concurrent.futures import ThreadPoolExecutor

import grpc
import numpy as np
import pytest
from conftest import Photo, Stubs, run_server
from cutout.v1 import image_pb2, mask_pb2, segmentation_pb2
from cutout.v1 import segmentation_service_pb2 as pb2
from cutout_common import masks as codec
from cutout_server.imaging.decode import OpenedFile
from cutout_server.pipelines import finishing
from google.protobuf import json_format
from PIL import Image
from probe_family import Probe, probe_family
from pycocotools import mask as coco

Options = segmentation_pb2.SegmentationOptions
ASTRONAUT = mask_pb2.Box(x_min=20, y_min=5, x_max=440, y_max=512)
FACE = mask_pb2.Box(x_min=160, y_min=60, x_max=285, y_max=220)


def image_of(photo: Photo) -> image_pb2.Image:
    return image_pb2.Image(content=photo.jpeg)


def decoded(mask: mask_pb2.Mask) -> np.ndarray:
    return coco.decode({"size": list(mask.rle.size), "counts": mask.rle.counts}).astype(bool)


def by_box(stubs: Stubs, photo: Photo, *boxes: mask_pb2.Box, **options: object) -> segmentation_pb2.Segmentation:
    request = pb2.SegmentByBoxRequest(image=image_of(photo), boxes=boxes, options=Options(**options))
    return stubs.segmentation.SegmentByBox(request).segmentation


def test_a_box_gives_one_object_that_pycocotools_can_read(stubs: Stubs, photos: dict[str, Photo]):
    """Mask, tight box and area agree with each other; the answer says who made it and how long it took."""
    answer = by_box(stubs, photos["astronaut"], ASTRONAUT)
    (found,) = answer.objects
    mask = decoded(found.masks[0])
    assert mask.shape == (512, 512)
    assert found.area == mask.sum() > 10_000
    rows, columns = np.where(mask)
    tight = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
    assert (found.box.x_min, found.box.y_min, found.box.x_max, found.box.y_max) == tight
    assert found.prompt_box == ASTRONAUT
    assert 0 < found.predicted_iou <= 1
    assert not found.HasField("detection_score")
    assert list(answer.models) == ["builtin"]
    assert (answer.image.width, answer.image.height) == (512, 512)
    assert answer.timings.prompt_ms > 0
    assert answer.timings.total_ms >= answer.timings.prompt_ms


def test_the_json_form_of_a_mask_is_what_pycocotools_reads(stubs: Stubs, photos: dict[str, Photo]):
    """REST callers hand the object to pycocotools as it comes."""
    answer = by_box(stubs, photos["astronaut"], FACE)
    rle = json.loads(json_format.MessageToJson(answer.objects[0].masks[0]))["rle"]
    assert np.array_equal(coco.decode(rle).astype(bool), decoded(answer.objects[0].masks[0]))


def test_every_box_gets_its_object_in_order(stubs: Stubs, photos: dict[str, Photo]):
    """Objects come back in the order of their boxes, each with its index, clipped to the picture."""
    beyond = mask_pb2.Box(x_min=-50, y_min=300, x_max=5000, y_max=5000)
    answer = by_box(stubs, photos["astronaut"], ASTRONAUT, FACE, beyond)
    assert [found.prompt_index for found in answer.objects] == [0, 1, 2]
    assert answer.objects[2].prompt_box == mask_pb2.Box(x_min=0, y_min=300, x_max=512, y_max=512)


def test_all_mask_formats_say_the_same(stubs: Stubs, photos: dict[str, Photo]):
    """RLE, PNG, bits and polygons come in the order asked for and hold the same pixels."""
    order = [
        mask_pb2.MASK_FORMAT_POLYGONS,
        mask_pb2.MASK_FORMAT_PNG,
        mask_pb2.MASK_FORMAT_RLE,
        mask_pb2.MASK_FORMAT_BITS,
    ]
    (found,) = by_box(
        stubs, photos["chelsea"], mask_pb2.Box(x_min=60, y_min=20, x_max=400, y_max=290), mask_formats=order
    ).objects
    polygons, png, rle, bits = found.masks
    truth = decoded(rle)
    rings = [
        [np.array(ring.coordinates, np.float32).reshape(-1, 2) for ring in (polygon.exterior, *polygon.holes)]
        for polygon in polygons.polygons.polygons
    ]
    assert np.array_equal(codec.polygons_decode(*truth.shape, rings), truth)
    assert np.array_equal(codec.png_decode(png.png), truth)
    unpacked = np.unpackbits(np.frombuffer(bits.bits.data, np.uint8).reshape(truth.shape[0], -1), axis=1)
    assert np.array_equal(unpacked[:, : truth.shape[1]].astype(bool), truth)


def test_points_are_honoured(stubs: Stubs, photos: dict[str, Photo]):
    """A point with label 1, or with none, is inside the mask, one with label 0 outside."""
    inside, also_inside = mask_pb2.Point(x=220, y=110), mask_pb2.Point(x=215, y=190, label=1)
    outside = mask_pb2.Point(x=30, y=480, label=0)
    request = pb2.SegmentByPointsRequest(
        image=image_of(photos["astronaut"]), prompts=[pb2.ObjectPrompt(points=[inside, also_inside, outside])]
    )
    (found,) = stubs.segmentation.SegmentByPoints(request).segmentation.objects
    mask = decoded(found.masks[0])
    assert mask[110, 220]
    assert mask[190, 215]
    assert not mask[480, 30]


def test_logits_can_be_sent_back(stubs: Stubs, photos: dict[str, Photo]):
    """The logits of one answer are a prompt of the next, alone and with points."""
    image = image_of(photos["astronaut"])
    (first,) = by_box(stubs, photos["astronaut"], ASTRONAUT, return_logits=True).objects
    assert (first.logits.height, first.logits.width, len(first.logits.data)) == (256, 256, 256 * 256 * 4)
    assert np.abs(np.frombuffer(first.logits.data, "<f4")).max() <= 32
    prompts = [
        pb2.ObjectPrompt(logits=first.logits),
        pb2.ObjectPrompt(logits=first.logits, points=[mask_pb2.Point(x=220, y=110)]),
    ]
    answer = stubs.segmentation.SegmentByPoints(pb2.SegmentByPointsRequest(image=image, prompts=prompts)).segmentation
    before = decoded(first.masks[0])
    for found in answer.objects:
        after = decoded(found.masks[0])
        assert (before & after).sum() / (before | after).sum() > 0.7


def test_words_find_what_they_name(stubs: Stubs, photos: dict[str, Photo]):
    """Each object carries the caller's phrase and the detector's score, best first."""
    request = pb2.SegmentByTextRequest(image=image_of(photos["astronaut"]), phrases=["Face . person ."])
    answer = stubs.segmentation.SegmentByText(request).segmentation
    assert {found.label for found in answer.objects} >= {"Face"}
    scores = [found.detection_score for found in answer.objects]
    assert scores == sorted(scores, reverse=True)
    face = next(found for found in answer.objects if found.label == "Face")
    assert face.prompt_index == 0
    assert face.HasField("prompt_box")
    assert 160 < (face.box.x_min + face.box.x_max) / 2 < 290


def test_nothing_found_is_an_empty_answer(stubs: Stubs, photos: dict[str, Photo]):
    """A word that names nothing in the picture is no error."""
    request = pb2.SegmentByTextRequest(image=image_of(photos["rocket"]), phrases=["face"], box_threshold=0.99)
    answer = stubs.segmentation.SegmentByText(request).segmentation
    assert list(answer.objects) == []
    assert list(answer.models) == ["builtin"]


def test_everything_finds_several_things_and_says_what_it_left_out(stubs: Stubs, photos: dict[str, Photo]):
    """Everything gives several distinct objects with stability, best first."""
    request = pb2.SegmentEverythingRequest(image=image_of(photos["coffee"]))
    answer = stubs.segmentation.SegmentEverything(request).segmentation
    assert len(answer.objects) >= 3
    assert all(found.stability_score >= 0.5 for found in answer.objects)
    scores = [found.predicted_iou for found in answer.objects]
    assert scores == sorted(scores, reverse=True)


@pytest.mark.slow
def test_strategies(stubs: Stubs, photos: dict[str, Photo]):
    """ALL gives three candidates a prompt, BEST the one with the best score, LARGEST the largest, MERGE their union."""
    boxes = (ASTRONAUT, FACE)

    def run(strategy: int) -> list[segmentation_pb2.SegmentedObject]:
        return list(by_box(stubs, photos["astronaut"], *boxes, multimask=True, strategy=strategy).objects)

    everything = run(Options.STRATEGY_ALL)
    assert [found.prompt_index for found in everything] == [0, 0, 0, 1, 1, 1]
    per_prompt = [everything[:3], everything[3:]]
    best = run(Options.STRATEGY_BEST)
    assert [f.predicted_iou for f in best] == [max(c.predicted_iou for c in group) for group in per_prompt]
    largest = run(Options.STRATEGY_LARGEST)
    assert [f.area for f in largest] == [max(c.area for c in group) for group in per_prompt]
    (merged,) = run(Options.STRATEGY_MERGE)
    union = decoded(best[0].masks[0]) | decoded(best[1].masks[0])
    assert np.array_equal(decoded(merged.masks[0]), union)
    assert merged.area == union.sum()


def test_merge_joins_any_number(stubs: Stubs, photos: dict[str, Photo]):
    """The union of five masks is the union of five masks."""
    boxes = [mask_pb2.Box(x_min=x, y_min=20, x_max=x + 90, y_max=200) for x in (0, 100, 200, 300, 400)]
    separate = by_box(stubs, photos["astronaut"], *boxes).objects
    (merged,) = by_box(stubs, photos["astronaut"], *boxes, strategy=Options.STRATEGY_MERGE).objects
    assert len(separate) == 5
    assert np.array_equal(decoded(merged.masks[0]), np.any([decoded(f.masks[0]) for f in separate], axis=0))


def test_what_is_left_out_is_said(stubs: Stubs, photos: dict[str, Photo]):
    """min_area, NMS and max_objects leave masks out and say which prompts' and why."""
    photo = photos["astronaut"]
    small = by_box(stubs, photo, ASTRONAUT, mask_pb2.Box(x_min=9, y_min=9, x_max=19, y_max=19), min_area=5_000)
    assert [f.prompt_index for f in small.objects] == [0]
    assert [(o.reason, o.count, list(o.prompt_indices)) for o in small.omissions] == [
        (segmentation_pb2.Omission.REASON_BELOW_MIN_AREA, 1, [1])
    ]
    same = by_box(stubs, photo, ASTRONAUT, ASTRONAUT, FACE, nms_iou=0.9)
    assert len(same.objects) == 2
    assert same.omissions[0].reason == segmentation_pb2.Omission.REASON_DUPLICATE
    for multimask, most, left_out in ((False, 1, 1), (True, 2, 4), (True, 5, 1)):
        few = by_box(stubs, photo, ASTRONAUT, FACE, max_objects=most, multimask=multimask)
        assert len(few.objects) == most
        assert [(o.reason, o.count) for o in few.omissions] == [
            (segmentation_pb2.Omission.REASON_BEYOND_MAX_OBJECTS, left_out)
        ]


def test_a_threshold_that_nothing_passes_gives_no_empty_mask(stubs: Stubs, photos: dict[str, Photo]):
    """An object without a pixel is left out and said so, not sent with a score."""
    answer = by_box(stubs, photos["astronaut"], FACE, mask_threshold=32)
    assert list(answer.objects) == []
    assert [(o.reason, list(o.prompt_indices)) for o in answer.omissions] == [
        (segmentation_pb2.Omission.REASON_EMPTY, [0])
    ]


def test_masks_that_do_not_fit_together_and_empty_ones(monkeypatch: pytest.MonkeyPatch):
    """Many masks of a large picture are made in parts, whichever of them are empty."""
    monkeypatch.setattr(finishing, "PIXELS_AT_ONCE", 1000)
    full, empty = mask_pb2.Box(x_max=40, y_max=20), mask_pb2.Box(x_min=5.2, y_min=5.2, x_max=5.8, y_max=5.8)
    pixels = image_pb2.RawTensor(height=20, width=40, channels=3, data=bytes(20 * 40 * 3))
    together, masks = [], Probe.masks
    monkeypatch.setattr(Probe, "masks", lambda own, asked: together.append(len(asked)) or masks(own, asked))
    probe = Probe()
    probe.gate.set()
    with probe_family(probe) as model, run_server(models=[model]) as server, server.channel() as channel:
        stub = Stubs.over(channel).segmentation
        for boxes in ([empty, empty, full, full], [full, empty, full, empty], [empty, empty]):
            request = pb2.SegmentByBoxRequest(image=image_pb2.Image(tensor=pixels), boxes=boxes)
            answer = stub.SegmentByBox(request).segmentation
            assert [each.area for each in answer.objects] == [800] * boxes.count(full)
            assert list(answer.omissions[0].prompt_indices) == [i for i, box in enumerate(boxes) if box is empty]
    # The two full ones of 800 pixels do not share a pass.
    assert max(together) == 3


def test_the_overlay_is_the_picture_with_something_on_it(stubs: Stubs, photos: dict[str, Photo]):
    """An overlay has the picture's size, says its type, and differs from the picture where the object is."""
    for form, content_type in ((Options.OVERLAY_FORMAT_PNG, "image/png"), (Options.OVERLAY_FORMAT_JPEG, "image/jpeg")):
        answer = by_box(stubs, photos["astronaut"], FACE, overlay=form)
        assert answer.overlay.content_type == content_type
        drawn = np.asarray(Image.open(io.BytesIO(answer.overlay.data)).convert("RGB")).astype(int)
        mask = decoded(answer.objects[0].masks[0])
        change = np.abs(drawn - photos["astronaut"].pixels).sum(axis=2)
        assert change[mask].mean() > 10 * change[~mask].mean()


def test_an_overlay_of_nothing_is_the_upright_picture(stubs: Stubs, photos: dict[str, Photo]):
    """PLAIN gives the picture's own pixels as a PNG, turned as EXIF says, beside the objects that were found."""
    turned, file = Image.fromarray(photos["astronaut"].pixels).crop((100, 0, 400, 200)), io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6  # Orientation: to be turned to the right.
    turned.save(file, "PNG", exif=exif)
    box = mask_pb2.Box(x_min=20, y_min=20, x_max=150, y_max=150)
    request = pb2.SegmentByBoxRequest(
        image=image_pb2.Image(content=file.getvalue()),
        boxes=[box],
        options=Options(overlay=Options.OVERLAY_FORMAT_PLAIN),
    )
    answer = stubs.segmentation.SegmentByBox(request).segmentation
    assert (len(answer.objects), answer.overlay.content_type) == (1, "image/png")
    np.testing.assert_array_equal(Image.open(io.BytesIO(answer.overlay.data)), np.rot90(np.asarray(turned), -1))


def test_a_raw_tensor_is_a_picture_too(stubs: Stubs, photos: dict[str, Photo]):
    """The same pixels as file, uint8, uint16 and float32 give the same picture."""
    pixels = photos["coffee"].pixels
    tensors = {
        image_pb2.RawTensor.DATA_TYPE_UINT8: pixels,
        image_pb2.RawTensor.DATA_TYPE_UINT16: pixels.astype("<u2") * 257,
        image_pb2.RawTensor.DATA_TYPE_FLOAT32: (pixels / np.float32(255)).astype("<f4"),
    }
    digests = set()
    for dtype, values in tensors.items():
        height, width, channels = values.shape
        tensor = image_pb2.RawTensor(height=height, width=width, channels=channels, dtype=dtype, data=values.tobytes())
        request = pb2.SegmentByBoxRequest(
            image=image_pb2.Image(tensor=tensor), boxes=[mask_pb2.Box(x_min=5, y_min=5, x_max=99, y_max=99)]
        )
        digests.add(stubs.segmentation.SegmentByBox(request).segmentation.image.pixels_sha256)
    assert len(digests) == 1


def test_a_picture_is_encoded_once(stubs: Stubs, photos: dict[str, Photo]):
    """The second prompt on a picture finds its embedding, whatever file the pixels come in."""
    pixels = photos["chelsea"].pixels
    tensor = image_pb2.RawTensor(height=pixels.shape[0], width=pixels.shape[1], channels=3, data=pixels.tobytes())
    request = pb2.SegmentByBoxRequest(image=image_pb2.Image(tensor=tensor), boxes=[mask_pb2.Box(x_max=90, y_max=90)])
    stubs.segmentation.SegmentByBox(request)
    assert stubs.segmentation.SegmentByBox(request).segmentation.timings.embedding_cached


def test_a_picture_is_decoded_again_only_for_its_pixels(
    stubs: Stubs, photos: dict[str, Photo], monkeypatch: pytest.MonkeyPatch
):
    """A second prompt on the same file needs its embedding alone; an overlay, tiles and words need its pixels."""
    reads = []
    read = OpenedFile.read
    monkeypatch.setattr(OpenedFile, "read", lambda file, *stored: reads.append(file) or read(file, *stored))
    image = image_pb2.Image(content=photos["rocket"].jpeg)
    box = pb2.SegmentByBoxRequest(image=image, boxes=[mask_pb2.Box(x_min=300, y_min=60, x_max=350, y_max=380)])
    first = stubs.segmentation.SegmentByBox(box).segmentation
    assert len(reads) == 1
    again = stubs.segmentation.SegmentByBox(box).segmentation
    assert len(reads) == 1
    assert (again.image, list(again.objects)) == (first.image, list(first.objects))
    points = pb2.SegmentByPointsRequest(image=image, prompts=[{"points": [{"x": 325, "y": 200}]}])
    assert stubs.segmentation.SegmentByPoints(points).segmentation.timings.embedding_cached
    assert len(reads) == 1
    for count, options in enumerate(({"overlay": "OVERLAY_FORMAT_JPEG"}, {"tiling": {"tile_size": 256}}), start=2):
        box.options.CopyFrom(segmentation_pb2.SegmentationOptions(**options))
        stubs.segmentation.SegmentByBox(box)
        assert len(reads) == count
    stubs.segmentation.SegmentByText(pb2.SegmentByTextRequest(image=image, phrases=["red"]))
    assert len(reads) == 4


@pytest.mark.slow
def test_requests_at_once_do_not_disturb_each_other(stubs: Stubs, photos: dict[str, Photo]):
    """Many callers at once, with other pictures and boxes, get what each gets alone."""
    tasks = [
        (photos[name], mask_pb2.Box(x_min=40 + x, y_min=30, x_max=260 + x, y_max=250))
        for name in photos
        for x in (0, 60)
    ]
    alone = [by_box(stubs, *task) for task in tasks]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(lambda task: by_box(stubs, *task), tasks * 2))
    for one, other in zip(alone * 2, together, strict=True):
        assert one.objects == other.objects


def test_a_reply_names_its_request(stubs: Stubs, photos: dict[str, Photo]):
    """The caller's request id comes back; without one, or with one that cannot be logged, there is a new one."""
    request = pb2.SegmentByBoxRequest(image=image_of(photos["chelsea"]), boxes=[FACE])

    def request_id(*metadata: tuple[str, str]) -> str:
        _, call = stubs.segmentation.SegmentByBox.with_call(request, metadata=metadata)
        return dict(call.trailing_metadata())["x-request-id"]

    assert request_id(("x-request-id", "abc-1")) == "abc-1"
    assert request_id() != request_id()
    assert request_id(("x-request-id", "with space")) != "with space"


def test_a_caller_with_default_limits_is_told_when_a_message_is_too_large(stubs: Stubs):
    """GRPC itself refuses what exceeds the server's message limit; the code is RESOURCE_EXHAUSTED."""
    request = pb2.SegmentByBoxRequest(image=image_pb2.Image(content=bytes(65 * 1024 * 1024)), boxes=[FACE])
    with pytest.raises(grpc.RpcError) as refused:
        stubs.segmentation.SegmentByBox(request)
    assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
