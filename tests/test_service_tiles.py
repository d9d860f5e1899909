"""Tiles over gRPC, REST and the client: small objects in a large picture, whole and once."""

from collections.abc import Iterator
from pathlib import Path

import cv2
import grpc
import httpx
import numpy as np
import pytest
import skimage.data
from client_fixtures import cutout
from conftest import RunningServer, Stubs, encode, run_server
from cutout.v1 import image_pb2, image_service_pb2, mask_pb2, segmentation_pb2
from cutout.v1 import segmentation_service_pb2 as pb2
from cutout_client import Client, Segmentation, Tiling
from cutout_common.masks import rle_decode
from cutout_common.status import unpack
from cutout_gateway.settings import GatewaySettings
from gateway_fixtures import GatewayThread
from google.protobuf import json_format
from grpc_status import rpc_status
from waiting import PATIENCE_S, wait_until

# Pieces of the sky behind a rocket, on grass: (x, y, side). They are too small to be seen in the whole picture. Tiles
# of 768 pixels share strips of 57; the last piece lies over one and is wider than it.
PIECES = ((200, 200, 60), (1230, 500, 60), (2600, 90, 60), (700, 300, 80))
TILES = {"tile_size": 768, "overlap": 0.05}


@pytest.fixture(scope="module")
def field() -> np.ndarray:
    """A wide picture, (768, 2900, 3)."""
    grass = skimage.data.grass()[..., None].repeat(3, axis=2)
    picture = cv2.resize(grass, (2900, 768), interpolation=cv2.INTER_AREA) // 3 + 120
    sky = skimage.data.rocket()[:300, 250:550]
    for x, y, side in PIECES:
        picture[y : y + side, x : x + side] = cv2.resize(sky, (side, side), interpolation=cv2.INTER_AREA)
    return picture


@pytest.fixture(scope="module")
def client(server: RunningServer) -> Iterator[Client]:
    with Client(server.address) as client:
        yield client


@pytest.fixture(scope="module")
def image_id(stubs: Stubs, field: np.ndarray) -> str:
    chunk = image_service_pb2.UploadImageRequest()
    chunk.chunk.data = encode(field, ".png")
    return str(stubs.images.UploadImage(iter([chunk])).image_id)


@pytest.fixture(scope="module")
def blue(client: Client, field: np.ndarray) -> Segmentation:
    return client.segment_text(field, "blue", tiling=Tiling(**TILES))


def text(image_id: str, **options: object) -> pb2.SegmentByTextRequest:
    tiling = segmentation_pb2.Tiling(**TILES)
    options = segmentation_pb2.SegmentationOptions(tiling=tiling, **options)
    return pb2.SegmentByTextRequest(image=image_pb2.Image(image_id=image_id), phrases=["blue"], options=options)


def iou(one: np.ndarray, other: np.ndarray) -> float:
    return float((one & other).sum() / (one | other).sum())


def test_small_objects_are_found(client: Client, field: np.ndarray, blue: Segmentation) -> None:
    """What is too small for the model in the whole picture is found in the tiles, each piece once and at its place."""
    assert len(client.segment_text(field, "blue")) == 0
    assert len(blue) == len(PIECES)
    for x, y, side in PIECES:
        piece = np.zeros(field.shape[:2], np.bool_)
        piece[y : y + side, x : x + side] = True
        assert max(iou(found.mask, piece) for found in blue) > 0.9
    for found in blue:
        rows, columns = found.mask.nonzero()
        assert tuple(found.box) == (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
        assert found.area == found.mask.sum()
        assert iou(box_mask(found.prompt_box, field), box_mask(found.box, field)) > 0.8


def box_mask(box: tuple[float, ...], picture: np.ndarray) -> np.ndarray:
    mask = np.zeros(picture.shape[:2], np.bool_)
    x_min, y_min, x_max, y_max = map(round, box)
    mask[y_min:y_max, x_min:x_max] = True
    return mask


def test_an_object_over_a_seam_is_whole(client: Client, field: np.ndarray, blue: Segmentation) -> None:
    """No tile holds it and the whole picture misses it, but it is the mask that its box gives in the whole picture."""
    x, y, side = PIECES[-1]
    (untiled,) = client.segment_box(field, [(x, y, x + side, y + side)])
    (over,) = (found for found in blue if found.mask[y + side // 2, x + side // 2])
    assert iou(over.mask, untiled.mask) > 0.95


@pytest.mark.slow
def test_one_answer_over_all_roads(stubs: Stubs, server: RunningServer, image_id: str, blue: Segmentation) -> None:
    """gRPC, REST and the client give the same objects, bit for bit, and so does the stream."""
    over_grpc = stubs.segmentation.SegmentByText(text(image_id)).segmentation
    with GatewayThread(GatewaySettings(server_address=server.address)) as gateway:
        body = json_format.MessageToDict(text(image_id), preserving_proto_field_name=True)
        answer = httpx.post(f"{gateway.url}/v1/segment:text", json=body, timeout=PATIENCE_S)
    assert answer.status_code == 200, answer.text
    over_rest = json_format.Parse(answer.text, segmentation_pb2.Segmentation())
    assert over_rest.objects == over_grpc.objects
    assert len(over_grpc.objects) == len(PIECES)
    stream = stubs.segmentation.StreamSegmentation(pb2.StreamSegmentationRequest(text=text(image_id)))
    assert [event.object for event in stream if event.HasField("object")] == list(over_grpc.objects)
    for ours, theirs in zip(blue, over_grpc.objects, strict=True):
        rle = theirs.masks[0].rle
        assert (ours.mask == rle_decode(*rle.size, rle.counts)).all()
    assert list(over_grpc.models) == ["builtin"]


@pytest.mark.slow
def test_command_line(server: RunningServer, field: np.ndarray, tmp_path: Path) -> None:
    """--tile with a size and an overlap finds the same; what it cannot read is refused with the form that it has."""
    (tmp_path / "field.png").write_bytes(encode(field, ".png"))
    flags = ["segment", tmp_path / "field.png", "--text", "blue", "--format", "rle"]
    cutout(server.address, *flags, "--tile", "768,0.05", "--out", tmp_path / "out")
    (rle,) = (tmp_path / "out").glob("*.json")
    assert rle.read_text().count('"counts"') == len(PIECES)
    wrong = cutout(server.address, *flags, "--tile", "768.5", "--out", tmp_path / "none", code=2)
    assert "expected whole pixels, got '768.5'" in wrong.stderr


@pytest.mark.slow
def test_options_hold_for_the_whole(stubs: Stubs, image_id: str) -> None:
    """Least areas, strategies and greatest numbers are about joined objects, and what is left out is told."""
    seam = PIECES[-1][2] ** 2
    large = stubs.segmentation.SegmentByText(text(image_id, min_area=seam * 9 // 10)).segmentation
    assert len(large.objects) == 1
    assert [(each.reason, each.count) for each in large.omissions] == [
        (segmentation_pb2.Omission.REASON_BELOW_MIN_AREA, len(PIECES) - 1)
    ]
    (best,) = stubs.segmentation.SegmentByText(text(image_id, max_objects=1)).segmentation.objects
    assert best.masks[0] == large.objects[0].masks[0]
    merge = segmentation_pb2.SegmentationOptions.STRATEGY_MERGE
    (merged,) = stubs.segmentation.SegmentByText(text(image_id, strategy=merge)).segmentation.objects
    every = stubs.segmentation.SegmentByText(text(image_id)).segmentation.objects
    assert merged.area == sum(found.area for found in every)


@pytest.mark.slow
def test_prompts_go_to_the_tile_that_holds_them(client: Client, field: np.ndarray) -> None:
    """A box in a tile gives what that tile gives alone; what no tile holds has the whole picture; the order stays."""
    boxes = [(x, y, x + side, y + side) for x, y, side in (PIECES[0], PIECES[-1], PIECES[2])]
    tiled = client.segment_box(field, boxes, tiling=Tiling(**TILES))
    assert [found.prompt_index for found in tiled] == [0, 1, 2]
    (inside,) = client.segment_box(np.ascontiguousarray(field[:, :768]), boxes[:1])
    assert (tiled[0].mask[:, :768] == inside.mask).all()
    assert not tiled[0].mask[:, 768:].any()
    again = client.segment_box(field, boxes[:1], tiling=Tiling(**TILES))
    assert again.timings.embedding_cached
    (whole,) = client.segment_box(field, boxes[1:2])
    assert (tiled[1].mask == whole.mask).all()
    x, y, side = PIECES[2]
    (clicked,) = client.segment_points(field, [(x + side / 2, y + side / 2)], tiling=Tiling(**TILES))
    assert clicked.mask[y + side // 2, x + side // 2]


def test_a_small_picture_is_as_ever(client: Client, field: np.ndarray) -> None:
    """With a picture no larger than a tile the option changes nothing."""
    part = np.ascontiguousarray(field[:, 1000:1768])
    plain, tiled = (client.segment_text(part, "blue", **more) for more in ({}, {"tiling": 768}))
    assert len(plain) == 1
    assert [(found.box, found.score) for found in tiled] == [(found.box, found.score) for found in plain]
    assert (tiled[0].mask == plain[0].mask).all()


REFUSED = [
    ("SegmentByText", {"options": {"tiling": {"tile_size": 255}}}, "options.tiling.tile_size"),
    ("SegmentByText", {"options": {"tiling": {"tile_size": 4097}}}, "options.tiling.tile_size"),
    ("SegmentByText", {"options": {"tiling": {"overlap": 0.01}}}, "options.tiling.overlap"),
    ("SegmentByText", {"options": {"tiling": {"overlap": "NaN"}}}, "options.tiling.overlap"),
    ("SegmentByText", {"options": {"tiling": {}, "return_logits": True}}, "options.return_logits"),
    ("SegmentByText", {"options": {"tiling": {}}, "exemplars": [{"box": {"x_max": 9, "y_max": 9}}]}, "exemplars"),
    ("SegmentEverything", {"options": {"tiling": {}}, "crop_layers": 1}, "crop_layers"),
    ("SegmentByPoints", {"options": {"tiling": {}}, "prompts": [{"logits": {}}]}, "prompts[0].logits"),
]


@pytest.mark.parametrize(("method", "fields", "field_name"), REFUSED)
def test_what_tiles_cannot_have(stubs: Stubs, image_id: str, method: str, fields: dict, field_name: str) -> None:
    """Bounds, and fields that are about one view of the picture, are refused by name."""
    if method == "SegmentByPoints":
        logits = mask_pb2.LowResLogits(height=256, width=256, data=bytes(256 * 256 * 4))
        prompts = [pb2.ObjectPrompt(logits=logits)]
        options = segmentation_pb2.SegmentationOptions(tiling=segmentation_pb2.Tiling())
        request = pb2.SegmentByPointsRequest(prompts=prompts, options=options)
    else:
        phrases = {"phrases": ["blue"]} if method == "SegmentByText" else {}
        request = json_format.ParseDict(fields | phrases, getattr(pb2, f"{method}Request")())
    request.image.image_id = image_id
    with pytest.raises(grpc.RpcError) as refused:
        getattr(stubs.segmentation, method)(request)
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert [each.field for each in unpack(rpc_status.from_call(refused.value)).violations] == [field_name]


@pytest.mark.slow
def test_too_many_tiles_are_refused(field: np.ndarray) -> None:
    """The operator's bound holds, and the refusal says how many tiles there would be."""
    with run_server(max_tiles=3) as server, Client(server.address) as client:
        with pytest.raises(Exception, match=r"tile_size.*at most 3 tiles, got 768, which makes 4"):
            client.segment_text(field, "blue", tiling=Tiling(**TILES))
        assert len(client.segment_text(field, "blue", tiling=Tiling(1024, 0.05))) > 0


@pytest.mark.slow
def test_the_deadline_holds_between_tiles(stubs: Stubs, server: RunningServer, image_id: str) -> None:
    """A caller whose time is over is answered at once, and its tiles are not looked at any more."""
    tiling = segmentation_pb2.Tiling(tile_size=256)
    request = pb2.SegmentEverythingRequest(
        image=image_pb2.Image(image_id=image_id), options=segmentation_pb2.SegmentationOptions(tiling=tiling)
    )
    with pytest.raises(grpc.RpcError) as late:
        stubs.segmentation.SegmentEverything(request, timeout=0.5)
    assert late.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    text_answer = stubs.segmentation.SegmentByText(text(image_id), timeout=PATIENCE_S)
    assert len(text_answer.segmentation.objects) == len(PIECES)
    wait_until(lambda: all(device.requests == 0 for device in server.app.status().devices))


@pytest.mark.slow
def test_everything_in_tiles(client: Client, field: np.ndarray) -> None:
    """What is over a seam comes back once and whole."""
    found = client.segment_everything(field, tiling=Tiling(**TILES))
    x, y, side = PIECES[-1]
    piece = box_mask((x, y, x + side, y + side), field)
    (over,) = (each for each in found if iou(each.mask, piece) > 0.5)
    assert iou(over.mask, piece) > 0.9
