"""What callers see is the same however servers compute: on a device of their own, as several, or on a Ray cluster."""

# ruff: noqa: F811 - fixtures are imported

import json
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import count
from pathlib import Path
from typing import Any

import grpc
import httpx
import numpy as np
import pytest
from conftest import Photo, RunningServer, Stubs, encode, run_server
from cutout.v1 import segmentation_service_pb2 as pb2
from cutout_client import Client, CutoutError, Prompt
from cutout_client.errors import DeadlineError, InvalidRequestError, NotFoundError
from cutout_client.generation import GeneratedImage, GenerationProgress
from cutout_client.results import Segmentation
from cutout_client.tracked import Frame, TrackPrompt
from cutout_common.rle import rle_decode
from cutout_gateway.settings import GatewaySettings
from gateway_fixtures import GatewayThread
from generation_fixtures import clip_folder, sd1  # noqa: F401 - fixtures
from prometheus import scraped
from ray_cluster import ray_cluster
from replicas import BOX, SIDE, pictures
from test_service_tracking import SIDE as OBJECT
from test_service_tracking import picture, place, truth
from video_fixtures import COUNT, DATA
from waiting import PATIENCE_S, wait_until

pytestmark = pytest.mark.slow

Ask = Callable[[Client, bytes], Segmentation]
Expected = Callable[[Callable[[Client], Any]], Any]
WAYS = [
    "local",
    "replicas",
    pytest.param("ray", marks=pytest.mark.skipif(find_spec("ray") is None, reason="pip install ray")),
]
TOP, LEFT = place(0)
CUP = (LEFT, TOP, LEFT + OBJECT, TOP + OBJECT)
LARGE = np.full((400, 500, 3), 20, np.uint8)
LARGE[100:180, 300:420] = 230
_numbers = count()


@dataclass(frozen=True)
class Service:
    """One of the ways.

    Attributes:
        way: Its name.
        address: What callers name.
        client: A caller.
        metrics_urls: Of every server.
    """

    way: str
    address: str
    client: Client
    metrics_urls: tuple[str, ...]

    def sum(self, metric: str, **labels: str) -> float:
        """What a metric comes to at all servers together."""
        return sum(scraped(url, metric, **labels) for url in self.metrics_urls)


@pytest.fixture(scope="module")
def settings(clip_folder: Path, sd1: Path) -> dict[str, object]:
    models = [
        {"name": "builtin", "family": "builtin"},
        {"name": "sd", "family": "stable-diffusion", "checkpoint": str(sd1)},
        {"name": "clip", "family": "clip", "checkpoint": str(clip_folder), "engine": "eager", "precision": "fp32"},
    ]
    return {"models": models, "preload": False, "answers_cache_bytes": 2**24}


def flags(settings: dict[str, object]) -> Iterator[str]:
    """Settings as a command line has them."""
    for name, value in settings.items():
        yield f"--{name.replace('_', '-')}"
        yield json.dumps(value)


@pytest.fixture(scope="module")
def reference(settings: dict[str, object]) -> Iterator[RunningServer]:
    """A server with a device of its own."""
    with run_server(**settings) as running:
        yield running


@pytest.fixture(scope="module")
def answers(reference: RunningServer) -> Iterator[tuple[Client, dict[str, Any]]]:
    """A caller of that, and what each test had from it."""
    with Client(reference.address) as client:
        yield client, {}


@pytest.fixture(scope="module", params=WAYS)
def service(
    request: pytest.FixtureRequest,
    reference: RunningServer,
    settings: dict[str, object],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Service]:
    """Each way in turn."""
    with ExitStack() as stack:
        if request.param == "ray":
            cluster = stack.enter_context(ray_cluster(tmp_path_factory.mktemp("cluster"), cpus=2))
            front = stack.enter_context(cluster.front(*flags(settings | {"ray_min_workers": 2, "ray_max_workers": 2})))
            servers = {front.address: front.metrics_url}
        else:
            others = [stack.enter_context(run_server(**settings))] if request.param == "replicas" else []
            servers = {server.address: server.metrics_url for server in (reference, *others)}
        address = ",".join(servers)
        client = stack.enter_context(Client(address))
        if request.param == "ray":
            wait_until(lambda: len(client.status().devices) == 2)
        yield Service(request.param, address, client, tuple(servers.values()))


@pytest.fixture(scope="module")
def client(service: Service) -> Client:
    return service.client


@pytest.fixture
def expected(service: Service, answers: tuple[Client, dict[str, Any]], request: pytest.FixtureRequest) -> Expected:
    """What the reference answers a test, asked once for all ways."""
    own, had = answers
    test = request.node.name.replace(service.way, "")

    def answer(ask: Callable[[Client], Any]) -> Any:
        if test not in had:
            had[test] = ask(own)
        return had[test]

    return answer


@pytest.fixture(scope="module")
def file() -> bytes:
    """A bright shape on a dark ground."""
    return pictures(1)[0]


def new_picture() -> bytes:
    """One that nobody has asked about."""
    pixels = np.full((SIDE, SIDE, 3), 20, np.uint8)
    pixels[28:60, 30:70] = 230
    pixels[0, 0] = next(_numbers)
    return encode(pixels, ".png")


def said(found: Segmentation) -> list[object]:
    """What was found, but for its scores."""
    objects = [(each.label, each.prompt_index, each.mask.tobytes(), named(each.concepts)) for each in found.objects]
    return [named(found.concepts), *objects]


def named(concepts: Any) -> list[str]:
    """The concepts, the best first."""
    return [each.concept for each in concepts or ()]


ASKS: dict[str, Ask] = {
    "box": lambda client, file: client.segment_box(file, BOX),
    "boxes": lambda client, file: client.segment_box(file, [BOX, (2, 2, 20, 20), BOX], max_objects=2),
    "clicks": lambda client, file: client.segment_points(file, [(48, 40), (5, 5, 0)], multimask=True),
    "words": lambda client, file: client.segment_text(file, "thing . white"),
    "everything": lambda client, file: client.segment_everything(file),
    "tiles": lambda client, _: client.segment_text(LARGE, "white", tiling=256),
    "analysis": lambda client, file: client.analyze(file, ["a cat", "a box"], regions=[BOX]),
}


@pytest.mark.parametrize("ask", ASKS.values(), ids=ASKS)
def test_prompts_find_the_same(
    client: Client, expected: Expected, file: bytes, ask: Callable[[Client, bytes], Segmentation]
):
    """Of whatever kind: the same objects with the same masks, in the same order."""
    found = ask(client, file)
    assert len(found.objects) > 0
    assert said(found) == expected(lambda own: said(ask(own, file)))


def test_masks_come_in_every_form(client: Client, file: bytes):
    """Which all say the same."""
    found = client.segment_box(file, BOX, mask_formats=["rle", "png", "bits", "polygons"], return_logits=True)[0]
    assert found.logits.shape == (256, 256)
    assert len(found.encodings) == 4
    for form in ("rle", "png", "bits"):
        assert np.array_equal(client.segment_box(file, BOX, mask_formats=[form])[0].mask, found.mask)


def test_logits_go_on_from_an_answer(client: Client, expected: Expected, file: bytes):
    """As the mask prompt of another request."""

    def refined(client: Client) -> list[object]:
        logits = client.segment_box(file, BOX, return_logits=True)[0].logits
        return said(client.segment_points(file, Prompt(points=[(48, 40)], logits=logits)))

    assert refined(client) == expected(refined)


def test_a_stream_gives_each_object_once(client: Client, file: bytes):
    """In the order of the prompts, and with the whole answer's masks."""
    boxes = [(24.0 + number, 24.0, 72.0, 72.0) for number in range(8)]
    with client.stream(file, boxes=boxes) as stream:
        found = list(stream)
    assert [each.prompt_index for each in found] == list(range(8))
    for each, expected in zip(found, client.segment_box(file, boxes), strict=True):
        assert np.array_equal(each.mask, expected.mask)


def test_a_session_answers_many_prompts(client: Client, expected: Expected, file: bytes):
    """Of every kind, and goes on after one that is wrong."""

    def asked(client: Client) -> list[object]:
        with client.session(file) as session:
            first = said(session.box(BOX))
            with pytest.raises(InvalidRequestError) as wrong:
                session.box((190, 10, 200, 20))
            return [
                first,
                [each.field for each in wrong.value.violations],
                said(session.points((48, 40))),
                said(session.text("thing")),
                said(session.everything()),
                said(session.analyze(["a cat", "a box"], regions=[BOX])),
            ]

    assert asked(client) == expected(asked)


def test_an_equal_request_has_the_kept_answer(client: Client):
    """Where it was asked before, and nowhere a second pass."""
    new = new_picture()
    first, again = client.segment_box(new, BOX), client.segment_box(new, BOX)
    assert (first.cached, again.cached) == (False, True)
    assert said(first) == said(again)


def test_a_picture_is_encoded_once(service: Service, client: Client):
    """Whoever asks about it at once, and whatever is asked afterwards."""

    def encoded() -> float:
        client.load_model("builtin")  # By which a front hears what its workers have done up to now.
        return service.sum("cutout_batch_size_sum", operation="encode")

    new, before = new_picture(), encoded()
    with ThreadPoolExecutor(6) as callers:
        boxes = [(24.0 + number, 24.0, 72.0, 72.0) for number in range(6)]
        assert all(callers.map(lambda box: len(client.segment_box(new, box)), boxes))
    assert client.segment_points(new, (48, 40)).timings.embedding_cached
    wait_until(lambda: encoded() > before)
    assert encoded() == before + 1


def test_callers_that_leave_free_their_place(service: Service, photos: dict[str, Photo]):
    """What they asked is dropped, and who stays is answered."""
    files = [encode(np.roll(photos["coffee"].pixels[::5, ::5], number, 0)) for number in range(8)]
    with grpc.insecure_channel(service.address.split(",")[0]) as channel:
        ask = Stubs.over(channel).segmentation.SegmentEverything
        requests = [pb2.SegmentEverythingRequest(image={"content": each}) for each in files]
        stays, *others = [ask.future(request, timeout=PATIENCE_S) for request in requests]
        wait_until(lambda: service.sum("cutout_requests_in_hand") > 1)
        for other in others:
            other.cancel()
        assert stays.result().segmentation.objects
    wait_until(lambda: service.sum("cutout_requests_in_hand") == 0)


def test_a_deadline_ends_a_request(service: Service, client: Client, photos: dict[str, Photo]):
    """With DEADLINE_EXCEEDED, and nothing of it is left."""
    with pytest.raises(DeadlineError):
        client.segment_everything(photos["chelsea"].pixels[::2, ::2], timeout_s=0.1)
    wait_until(lambda: service.sum("cutout_requests_in_hand") == 0)
    assert client.segment_box(new_picture(), BOX)


def test_pictures_are_made(client: Client, expected: Expected):
    """The same ones of the same seed, with each of their steps told, and cut out of at once."""

    def made(client: Client) -> list[object]:
        told: list[object] = []
        options = {"width": 64, "height": 64, "steps": 3, "seed": 7, "phrases": "thing"}
        for each in client.generate_stream(["a cat", "a box"], **options):
            is_picture = isinstance(each, GeneratedImage)
            told.append((each.data, said(each.segmentation)) if is_picture else each)
        return told

    found = made(client)
    assert [type(each) for each in found].count(GenerationProgress) == 2 * 3
    assert found == expected(made)


def test_stored_pictures(client: Client, file: bytes):
    """Are asked about by their id, read back byte for byte, and gone when they are deleted."""
    stored = client.upload(file)
    assert said(client.segment_box(stored, BOX)) == said(client.segment_box(file, BOX))
    with client.session(stored) as session:
        assert session.box(BOX)
    assert client.download(stored) == file
    client.delete(stored)
    with pytest.raises(NotFoundError) as gone:
        client.download(stored)
    assert gone.value.reason in {"IMAGE_NOT_FOUND", "IMAGE_ELSEWHERE"}


def followed(client: Client, frames: list[object], **options: Any) -> list[object]:
    """The masks of every frame, by object."""
    with client.live(frames, **options) as live:
        return [{each.object_id: tobytes(each.mask) for each in found} for found in live]


def tobytes(mask: np.ndarray | None) -> bytes | None:
    return None if mask is None else mask.tobytes()


def test_objects_are_followed_live(client: Client, expected: Expected):
    """One from a box, one from a mask that joins, one from words."""
    frames: list[object] = [picture(index) for index in range(5)]
    frames[1] = Frame(frames[1], prompts={7: TrackPrompt(mask=~truth(1))})
    frames[2] = Frame(frames[2], phrases="object")
    found = followed(client, frames, boxes=CUP)
    assert [1 in each for each in found] == [True] * 5
    assert [7 in each for each in found] == [False] + [True] * 4
    assert found == expected(lambda own: followed(own, frames, boxes=CUP))


def test_a_live_session_is_corrected(client: Client, expected: Expected):
    """In a frame that was answered already; objects are removed."""

    def corrected(client: Client) -> list[object]:
        told: list[object] = []
        is_said = threading.Event()

        def frames() -> Iterator[np.ndarray]:
            yield from map(picture, (0, 1))
            is_said.wait(PATIENCE_S)
            yield from map(picture, (2, 3))

        with client.live(frames(), boxes=[CUP, CUP]) as live:
            for found in live:
                told.append((found.index, found.corrected, {each.object_id: tobytes(each.mask) for each in found}))
                if found.index == 1 and not found.corrected:
                    live.correct(1, {1: TrackPrompt(mask=truth(1))})
                    live.remove([2])
                    is_said.set()
        return told

    found = corrected(client)
    assert [each[1] for each in found].count(True) == 1
    assert set(found[-1][2]) == {1}
    assert found == expected(corrected)


def test_objects_are_followed_through_stored_videos(client: Client, expected: Expected):
    """Forward and back from a frame in the middle."""

    def tracked(client: Client) -> dict[int, dict[int, bytes | None]]:
        video = client.upload_video(DATA)
        top, left = place(3)
        prompts = {3: {5: TrackPrompt(box=(left, top, left + OBJECT, top + OBJECT))}}
        with client.track_video(video, prompts=prompts, direction="both") as frames:
            found = {frame.index: {each.object_id: tobytes(each.mask) for each in frame} for frame in frames}
        client.delete_video(video)
        return found

    found = tracked(client)
    assert set(found) == set(range(COUNT))
    assert found == expected(tracked)


WRONG: Mapping[str, Callable[[Client, bytes], object]] = {
    "fields": lambda client, file: client.segment_box(
        file, (90, 10, 200, 20), mask_threshold=1e9, strategy="best", tiling=3
    ),
    "model": lambda client, file: client.segment_box(file, BOX, segmenter="none"),
    "task": lambda client, file: client.segment_box(file, BOX, segmenter="clip"),
    "file": lambda client, _: client.segment_box(b"no picture", BOX),
    "image": lambda client, _: client.download("img_a_b_c"),
    "video": lambda client, _: client.video("vid_none"),
    "prompt": lambda client, file: client.segment_points(file, Prompt(box=BOX, points=[(500, 500)])),
    "generation": lambda client, _: client.generate("a cat", width=63, height=64),
    "tracker": lambda client, _: followed(client, [picture(0)], boxes=CUP, tracker="clip"),
}


@pytest.mark.parametrize("ask", WRONG.values(), ids=WRONG)
def test_errors_say_the_same(client: Client, expected: Expected, file: bytes, ask: Callable[[Client, bytes], object]):
    """Code, reason, text and every field."""

    def refused(client: Client) -> list[object]:
        with pytest.raises(CutoutError) as wrong:
            ask(client, file)
        return [wrong.value.code, wrong.value.reason, wrong.value.message, wrong.value.violations]

    assert refused(client) == expected(refused)


def test_overlays_are_drawn(client: Client, expected: Expected, file: bytes):
    """Pixel for pixel alike, but for the scores that are written."""
    drawn = client.overlay(file, boxes=BOX, mask_only=True)
    assert np.array_equal(drawn, expected(lambda own: own.overlay(file, boxes=BOX, mask_only=True)))
    assert np.array_equal(np.asarray(drawn).reshape(SIDE, SIDE, -1)[..., 0] > 0, client.segment_box(file, BOX)[0].mask)


def test_models_are_listed_loaded_and_unloaded(client: Client, expected: Expected):
    """On each device of the server that is asked."""

    def listed(client: Client) -> list[object]:
        return [(each.name, each.tasks) for each in client.models()]

    assert listed(client) == expected(listed)
    devices = {device.name for device in client.status().devices}
    assert set(client.load_model("clip").loaded_on) == devices
    assert client.unload_model("clip").loaded_on == ()
    assert client.health() == "serving"


def test_rest_says_the_same(service: Service, file: bytes):
    """By a gateway; what is wrong, too."""
    form = {"image.content": file, "boxes": (None, b'{"xMin":24,"yMin":24,"xMax":72,"yMax":72}')}
    with (
        GatewayThread(GatewaySettings(server_address=service.address)) as gateway,
        httpx.Client(base_url=gateway.url, timeout=PATIENCE_S) as rest,
    ):
        answer = rest.post("/v1/segment:box", files=form)
        found = answer.json()["objects"][0]["masks"][0]["rle"]
        wrong = rest.post("/v1/segment:box", files=form | {"segmenter": (None, b"none")})
    mask = rle_decode(*found["size"], found["counts"])
    assert np.array_equal(mask, service.client.segment_box(file, BOX)[0].mask)
    assert (wrong.status_code, wrong.json()["details"][0]["reason"]) == (400, "MODEL_NOT_FOUND")


def test_a_request_id_is_the_callers(client: Client, file: bytes):
    """In answers and in errors."""
    assert client.segment_box(file, BOX, request_id="mine").request_id == "mine"
    with pytest.raises(CutoutError) as wrong:
        client.segment_box(file, BOX, segmenter="none", request_id="mine")
    assert wrong.value.request_id == "mine"
