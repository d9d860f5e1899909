"""What SegmentEverything keeps back: every mask that was made is answered, or counted with its reason."""

# ruff: noqa: F811 - fixtures are imported

import json
from collections.abc import Callable, Iterator

import cutout_client
import httpx
import numpy as np
import pytest
from client_fixtures import cutout
from conftest import Photo, RunningServer
from cutout.v1 import image_pb2, segmentation_pb2
from cutout.v1 import segmentation_service_pb2 as pb2
from cutout_client import AsyncClient, Client, Omission
from cutout_server.pipelines.grid import crops
from everything_fixtures import Everything, everything, sam_checkpoint  # noqa: F401
from test_everything_official import PICTURES, generate
from waiting import PATIENCE_S

Reason = segmentation_pb2.Omission
SIDE = 4
POINTS = SIDE * SIDE


def ask(everything: Everything, pixels: np.ndarray, **fields: object) -> segmentation_pb2.Segmentation:
    return everything.stubs.segmentation.SegmentEverything(request(pixels, **fields)).segmentation


def request(pixels: np.ndarray, **fields: object) -> pb2.SegmentEverythingRequest:
    height, width, _ = pixels.shape
    tensor = image_pb2.RawTensor(height=height, width=width, channels=3, data=pixels.tobytes())
    return pb2.SegmentEverythingRequest(
        **{"image": image_pb2.Image(tensor=tensor), "segmenter": "sam", "points_per_side": SIDE} | fields
    )


def by_reason(omissions: object) -> dict[int, segmentation_pb2.Omission]:
    return {omission.reason: omission for omission in omissions}


def count(omissions: object) -> int:
    return sum(omission.count for omission in omissions)


@pytest.fixture(scope="module")
def made(everything: Everything) -> tuple[np.ndarray, np.ndarray]:
    """Predicted IoU and stability score of every mask that the official generator makes, but for empty ones."""
    arguments = {"pred_iou_thresh": 0, "stability_score_thresh": 0, "box_nms_thresh": 1.0}
    records = generate(everything, "sam", PICTURES["cat"](), points_per_side=SIDE, **arguments)
    full = [r for r in records if r["area"]]
    return np.array([r["predicted_iou"] for r in full]), np.array([r["stability_score"] for r in full])


@pytest.mark.slow
def test_thresholds_are_counted(everything: Everything, made: tuple[np.ndarray, np.ndarray]):
    """Each threshold with what it kept back, and the best of that; what both would keep back counts for the first."""
    ious, stabilities = made
    least_iou, least_stability = float(np.median(ious)), float(np.median(stabilities))
    fields = {"predicted_iou_threshold": least_iou, "stability_threshold": least_stability, "box_nms_iou": 1}
    answer = ask(everything, PICTURES["cat"](), **fields)
    found = by_reason(answer.omissions)
    doubted, unstable = ious <= np.float32(least_iou), (ious > np.float32(least_iou)) & (stabilities < least_stability)
    assert doubted.any()
    assert unstable.any()
    doubtful, shaky = found[Reason.REASON_BELOW_PREDICTED_IOU], found[Reason.REASON_BELOW_STABILITY]
    assert abs(doubtful.count - doubted.sum()) <= 1  # The median itself, rounded in another batch.
    assert doubtful.threshold == pytest.approx(least_iou)
    assert doubtful.best == pytest.approx(ious[doubted].max(), abs=1e-4)
    assert abs(shaky.count - unstable.sum()) <= 1
    assert shaky.threshold == pytest.approx(least_stability)
    assert shaky.best == pytest.approx(stabilities[unstable].max(), abs=1e-2)
    assert list(doubtful.prompt_indices) == list(shaky.prompt_indices) == [0]
    assert len(answer.objects) + count(answer.omissions) == 3 * POINTS


@pytest.mark.slow
@pytest.mark.parametrize("model", ["sam", "sam2"])
@pytest.mark.parametrize("layers", [0, 1])
def test_no_mask_is_lost(everything: Everything, model: str, layers: int):
    """Three masks of each point are answered or counted, those too that the edge of a crop may have cut."""
    pixels = PICTURES["tall"]()
    height, width, _ = pixels.shape
    answer = ask(everything, pixels, segmenter=model, crop_layers=layers, predicted_iou_threshold=0.5)
    looks = len(list(crops(height, width, layers, 512 / 1500)))
    assert looks == (5 if layers else 1)
    assert len(answer.objects) + count(answer.omissions) == looks * 3 * POINTS
    assert bool(layers) == (Reason.REASON_CUT_OFF in by_reason(answer.omissions))


@pytest.mark.slow
def test_tiles_count_as_well(everything: Everything):
    """Every view of a tiled picture adds what its thresholds kept back, and the best is that of all views."""
    pixels = np.tile(PICTURES["cat"](), (2, 2, 1))[:600, :600]
    whole = ask(everything, pixels, predicted_iou_threshold=1)
    tiled = ask(everything, pixels, predicted_iou_threshold=1, options={"tiling": {"tile_size": 384}})
    (one,), (several,) = whole.omissions, tiled.omissions
    assert one.reason == several.reason == Reason.REASON_BELOW_PREDICTED_IOU
    assert one.count == 3 * POINTS
    assert several.count > one.count
    assert several.count % (3 * POINTS) == 0
    assert several.best >= one.best > 0


def test_nothing_found_says_why(everything: Everything, made: tuple[np.ndarray, np.ndarray]):
    """With a threshold that nothing reaches, the answer names it, and how far the best mask is away; streamed too."""
    ious, _ = made
    answer = ask(everything, PICTURES["cat"](), predicted_iou_threshold=1)
    assert not answer.objects
    (omission,) = answer.omissions
    assert (omission.reason, omission.count) == (Reason.REASON_BELOW_PREDICTED_IOU, 3 * POINTS)
    assert omission.threshold == 1
    assert omission.best == pytest.approx(ious.max(), abs=1e-4)
    streamed = pb2.StreamSegmentationRequest(everything=request(PICTURES["cat"](), predicted_iou_threshold=1))
    *_, last = everything.stubs.segmentation.StreamSegmentation(streamed)
    assert list(last.summary.omissions) == [omission]


# The built-in model finds everything in a way of its own.


@pytest.fixture
def client(server: RunningServer) -> Iterator[Client]:
    with Client(server.address) as connected:
        yield connected


@pytest.fixture(scope="module")
def every(server: RunningServer, photos: dict[str, Photo]) -> cutout_client.Segmentation:
    """With nothing kept back."""
    with Client(server.address) as connected:
        options = {"predicted_iou_threshold": 0.0, "stability_threshold": 0.0}
        return connected.segment_everything(photos["chelsea"].jpeg, **options)


Ask = Callable[[Client, bytes], cutout_client.Segmentation]


def by_session(client: Client, picture: bytes) -> cutout_client.Segmentation:
    with client.session(picture) as session:
        return session.everything(predicted_iou_threshold=1.0)


@pytest.mark.parametrize(
    "asked",
    [
        lambda client, picture: client.segment_everything(picture, predicted_iou_threshold=1.0),
        lambda client, picture: client.stream(picture, predicted_iou_threshold=1.0).result(),
        by_session,
    ],
    ids=["unary", "stream", "session"],
)
def test_the_client_shows_it(client: Client, photos: dict[str, Photo], every: cutout_client.Segmentation, asked: Ask):
    """Numbers to reckon with, and words to read."""
    result = asked(client, photos["chelsea"].jpeg)
    assert not result
    (omission,) = result.omissions
    assert (omission.reason, omission.threshold, omission.prompt_indices) == ("below_predicted_iou", 1.0, (0,))
    assert omission.count == len(every) + sum(each.count for each in every.omissions)
    assert omission.best == pytest.approx(max(each.predicted_iou for each in every), abs=1e-6)
    assert result.left_out == f"{omission.count} below predicted_iou_threshold 1 (best {omission.best:.4g})"


async def test_the_async_client_shows_it(server: RunningServer, photos: dict[str, Photo]):
    """The stability score likewise."""
    async with AsyncClient(server.address) as client:
        options = {"predicted_iou_threshold": 0.0, "stability_threshold": 1.0}
        result = await client.segment_everything(photos["chelsea"].jpeg, **options)
    (omission,) = result.omissions
    assert (omission.reason, omission.threshold) == ("below_stability", 1.0)
    assert 0 < omission.best < 1


def test_over_rest(gateway_url: str, photos: dict[str, Photo]):
    """Under the contract's names."""
    picture = {"image.content": photos["chelsea"].jpeg}
    fields = {"predictedIouThreshold": "1"}
    answer = httpx.post(f"{gateway_url}/v1/segment:everything", files=picture, data=fields, timeout=PATIENCE_S).json()
    (omission,) = answer["omissions"]
    assert answer["objects"] == []
    assert (omission["reason"], omission["threshold"]) == ("REASON_BELOW_PREDICTED_IOU", 1)
    assert omission["count"] > 0
    assert 0 < omission["best"] < 1


@pytest.mark.slow
def test_the_command_line_shows_it(server: RunningServer, photos: dict[str, Photo], tmp_path):
    """In the picture's row when nothing was found, else below the table; in JSON as numbers."""
    (tmp_path / "cat.jpg").write_bytes(photos["chelsea"].jpeg)
    flags = ("segment", tmp_path / "cat.jpg", "--everything", "--out", tmp_path)
    none = ("--predicted-iou-threshold", "1")
    # So wide that no cell is broken, however many digits the time has.
    shown = " ".join(cutout(server.address, *flags, *none, columns=200).stdout.split())
    assert "below predicted_iou_threshold 1 (best 0." in shown
    some = cutout(server.address, *flags, "--predicted-iou-threshold", "0.6").stdout
    assert "\nleft out: " in some
    assert " below predicted_iou_threshold 0.6 (best 0." in some
    (omission,) = json.loads(cutout(server.address, *flags, *none, "--json").stdout)["omissions"]
    assert (omission["reason"], omission["threshold"]) == ("below_predicted_iou", 1.0)


def test_reasons_of_a_newer_server():
    """A reason that this client does not know is a number, not a failure."""
    (omission,) = cutout_client.responses.read_omissions([segmentation_pb2.Omission(reason=99, count=2)])
    assert omission == Omission("99", 2, ())
