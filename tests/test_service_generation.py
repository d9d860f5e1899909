"""GenerationService behind the real stack, over gRPC and REST."""

import base64
import io
import json
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import httpx
import numpy as np
import pytest
from conftest import RunningServer, Stubs, run_server
from cutout.v1 import generation_service_pb2 as pb2
from cutout.v1 import generation_service_pb2_grpc, image_pb2, model_service_pb2, segmentation_pb2
from cutout.v1 import segmentation_service_pb2 as segmentation
from cutout_common.status import unpack
from cutout_gateway.settings import GatewaySettings
from cutout_server.models.family import Family
from cutout_server.models.queries import AbandonedError, GenerateQuery
from cutout_server.models.registry import FAMILIES
from cutout_server.types import RgbImage, Task
from gateway_fixtures import GatewayThread
from generation_fixtures import clip_folder, painter, sd1  # noqa: F401 - fixtures
from grpc_status import rpc_status
from PIL import Image
from stable_diffusion_checkpoints import official
from waiting import PATIENCE_S, wait_until

pytestmark = pytest.mark.slow

Stub = generation_service_pb2_grpc.GenerationServiceStub


@pytest.fixture(scope="module")
def stub(painter: RunningServer) -> Iterator[Stub]:  # noqa: F811
    with painter.channel() as channel:
        yield Stub(channel)


@pytest.fixture(scope="module")
def others(painter: RunningServer) -> Iterator[Stubs]:  # noqa: F811
    with painter.channel() as channel:
        yield Stubs.over(channel)


def request(*prompts: str, **changes: Any) -> pb2.GenerateImageRequest:
    return pb2.GenerateImageRequest(**{"prompts": prompts or ["the cat"], "steps": 3, "seed": 7} | changes)


def pixels_of(image: pb2.GeneratedImage, data: bytes = b"") -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data or image.data)))


def violations(call: Any) -> dict[str, str]:
    """The fields that a call is refused for."""
    with pytest.raises(grpc.RpcError) as caught:
        list(call()) if callable(call) else call
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    return {v.field: v.description for v in unpack(rpc_status.from_call(caught.value)).violations}


def test_pictures_are_the_official_ones(stub: Stub, sd1: Path):  # noqa: F811
    """Two prompts, two pictures with seeds in a row, as the official pipeline makes them."""
    answer = stub.GenerateImage(request("the cat", "on the dog", negative_prompt="and", guidance=3, width=64))
    assert answer.generator == "sd"
    assert answer.timings.generate_ms > 0
    assert [(i.prompt_index, i.seed, i.width, i.height) for i in answer.images] == [(0, 7, 64, 96), (1, 8, 64, 96)]
    make = official(sd1)
    for image, prompt in zip(answer.images, ("the cat", "on the dog"), strict=True):
        assert image.content_type == "image/png"
        size = {"width": image.width, "height": image.height}
        expected = make(
            image.seed, prompt=prompt, negative_prompt="and", guidance_scale=3.0, num_inference_steps=3, **size
        )
        np.testing.assert_array_equal(pixels_of(image), expected)


def test_a_random_seed_is_told(stub: Stub):
    """Without a seed pictures differ; the seed in the answer makes the same picture again."""
    free = pb2.GenerateImageRequest(prompts=["the cat"], steps=2)
    first, second = (stub.GenerateImage(free).images[0] for _ in range(2))
    assert first.seed != second.seed
    again = stub.GenerateImage(request(steps=2, seed=first.seed)).images[0]
    assert again.data == first.data


def test_seeds_go_round(stub: Stub):
    """Behind the greatest seed comes 0."""
    answer = stub.GenerateImage(request("the cat", "the cat", seed=2**64 - 1, steps=1))
    assert [image.seed for image in answer.images] == [2**64 - 1, 0]


def test_jpeg(stub: Stub):
    """JPEG on request, close to the PNG."""
    exact, lossy = (stub.GenerateImage(request(format=form)).images[0] for form in (1, 2))
    assert (lossy.content_type, lossy.data[:2]) == ("image/jpeg", b"\xff\xd8")
    assert np.abs(pixels_of(lossy).astype(int) - pixels_of(exact)).mean() < 8


def test_a_stream_tells_each_step(stub: Stub):
    """Each picture's steps, then the picture in chunks; a summary; the same bytes as in one answer."""
    asked = request("the cat", "on the dog")
    events = list(stub.StreamGeneration(pb2.StreamGenerationRequest(request=asked)))
    kinds = [event.WhichOneof("event") for event in events]
    assert kinds == ["progress", "progress", "progress", "image", "picture_chunk"] * 2 + ["summary"]
    steps = [(e.progress.prompt_index, e.progress.step, e.progress.steps) for e in events if e.HasField("progress")]
    assert steps == [(index, step, 3) for index in (0, 1) for step in (1, 2, 3)]
    assert events[-1].summary.generator == "sd"
    assert events[-1].summary.timings.generate_ms > 0
    chunks = [event.picture_chunk for event in events if event.HasField("picture_chunk")]
    assert [chunk.data for chunk in chunks] == [image.data for image in stub.GenerateImage(asked).images]
    assert all(chunk.last for chunk in chunks)


def test_large_pictures_travel_in_pieces(stub: Stub):
    """No message outgrows 512 KiB by much, and the pieces make the file."""
    asked = request(width=704, height=704, steps=1)
    events = list(stub.StreamGeneration(pb2.StreamGenerationRequest(request=asked)))
    chunks = [event.picture_chunk for event in events if event.HasField("picture_chunk")]
    assert len(chunks) > 1
    assert [chunk.last for chunk in chunks] == [False] * (len(chunks) - 1) + [True]
    assert max(event.ByteSize() for event in events) < 530_000
    picture = pixels_of(pb2.GeneratedImage(), b"".join(chunk.data for chunk in chunks))
    assert picture.shape == (704, 704, 3)


def without_times(answer: segmentation_pb2.Segmentation) -> segmentation_pb2.Segmentation:
    answer.ClearField("timings")
    return answer


def test_everything_in_it_at_once(stub: Stub, others: Stubs):
    """`then.everything` gives what SegmentEverything gives for the picture's file; so does the stream."""
    then = segmentation.SegmentEverythingRequest(
        predicted_iou_threshold=0, stability_threshold=0, options=segmentation_pb2.SegmentationOptions(max_objects=5)
    )
    asked = request(width=128, height=128, everything=then)
    (image,) = stub.GenerateImage(asked).images
    assert image.segmentation.timings.total_ms > 0
    assert image.segmentation.timings.generate_ms == 0
    then.image.content = image.data
    expected = without_times(others.segmentation.SegmentEverything(then).segmentation)
    assert expected.objects
    assert without_times(image.segmentation) == expected
    events = [
        event.segmentation
        for event in stub.StreamGeneration(pb2.StreamGenerationRequest(request=asked))
        if event.HasField("segmentation")
    ]
    assert [event.WhichOneof("event") for event in events] == ["header", *["object"] * len(expected.objects), "summary"]
    assert [event.object for event in events[1:-1]] == list(expected.objects)


def test_words_in_it_at_once(stub: Stub, others: Stubs):
    """`then.text` gives what SegmentByText gives for the picture's file."""
    then = segmentation.SegmentByTextRequest(phrases=["red", "blue"], segmenter="builtin")
    (image,) = stub.GenerateImage(request(text=then)).images
    then.image.content = image.data
    expected = without_times(others.segmentation.SegmentByText(then).segmentation)
    assert without_times(image.segmentation) == expected


def test_analysed_at_once(stub: Stub, others: Stubs):
    """`then.analyze` gives what AnalyzeImage gives for the picture's file, in a stream too."""
    then = segmentation.AnalyzeImageRequest(
        concepts=["cat", "dog", "noise"], regions=[segmentation.Region(box={"x_max": 50, "y_max": 60})]
    )
    asked = request(analyze=then)
    (image,) = stub.GenerateImage(asked).images
    then.image.content = image.data
    expected = without_times(others.segmentation.AnalyzeImage(then).segmentation)
    assert len(expected.concepts.scores) == 3
    assert expected.objects
    assert without_times(image.segmentation) == expected
    events = list(stub.StreamGeneration(pb2.StreamGenerationRequest(request=asked)))
    (header,) = [event.segmentation.header for event in events if event.segmentation.HasField("header")]
    assert header.concepts == expected.concepts


def test_what_cannot_be_done_then_is_refused_at_once(stub: Stub, painter: RunningServer):  # noqa: F811
    """A picture of its own, an unknown model or a wrong option is found out before anything is made."""
    image = image_pb2.Image(content=b"x")
    before = painter.app.status().devices[0].jobs
    with_image = request(text=segmentation.SegmentByTextRequest(image=image, phrases=["cat"]))
    assert violations(lambda: stub.GenerateImage(with_image)) == {
        "text.image": "expected none: it is the picture that is made"
    }
    unknown = request(everything=segmentation.SegmentEverythingRequest(segmenter="nobody"))
    assert "everything.segmenter" in violations(lambda: stub.GenerateImage(unknown))
    streamed = pb2.StreamGenerationRequest(request=unknown)
    assert "request.everything.segmenter" in violations(lambda: stub.StreamGeneration(streamed))
    wrong = request(everything=segmentation.SegmentEverythingRequest(points_per_side=65))
    assert "everything.points_per_side" in violations(lambda: stub.GenerateImage(wrong))
    analysis = request(analyze=segmentation.AnalyzeImageRequest(concepts=["a cat"], classifier="sd"))
    assert "analyze.classifier" in violations(lambda: stub.GenerateImage(analysis))
    assert painter.app.status().devices[0].jobs == before


@pytest.mark.parametrize(
    ("changes", "fields"),
    [
        ({"prompts": []}, {"prompts"}),
        ({"prompts": ["a"] * 17}, {"prompts"}),
        ({"prompts": ["a", " \n"]}, {"prompts[1]"}),
        ({"prompts": ["a" * 2001], "negative_prompt": "a" * 2001}, {"prompts[0]", "negative_prompt"}),
        ({"width": 100, "height": 56}, {"width", "height"}),
        ({"width": 2056, "steps": 201, "guidance": 0.5}, {"width", "steps", "guidance"}),
        ({"guidance": float("nan")}, {"guidance"}),
        ({"guidance": 30.5, "format": 9}, {"guidance", "format"}),
        ({"generator": "builtin"}, {"generator"}),
        ({"prompts": ["a"] * 5, "width": 2048, "height": 2048}, {"prompts"}),
    ],
)
def test_bounds(stub: Stub, changes: dict[str, Any], fields: set[str]):
    """Every field outside of its bounds is named, all at once."""
    assert violations(lambda: stub.GenerateImage(request(**changes))).keys() == fields


def test_the_generator_is_listed(others: Stubs):
    """ListModels says that it generates, and that it is the default."""
    listed = {model.name: model for model in others.models.ListModels(model_service_pb2.ListModelsRequest()).models}
    assert list(listed["sd"].tasks) == list(listed["sd"].default_for) == [model_service_pb2.Model.TASK_GENERATE]


@dataclass
class Paced:
    """A generator that takes a step whenever the test lets it.

    Attributes:
        steps: Released once for each step.
        taken: (prompt, step) of each step.
        abandoned: Prompts whose work was ended early.
    """

    nbytes: int = 4096
    steps: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))
    taken: list[tuple[str, int]] = field(default_factory=list)
    abandoned: list[str] = field(default_factory=list)

    def generate(self, queries: Sequence[GenerateQuery]) -> list[RgbImage]:
        (query,) = queries
        for step in range(1, query.steps + 1):
            if query.cancelled():
                self.abandoned.append(query.prompt)
                raise AbandonedError
            assert self.steps.acquire(timeout=PATIENCE_S)
            self.taken.append((query.prompt, step))
            query.progress(step)
        return [np.zeros((query.height, query.width, 3), np.uint8)]


@contextmanager
def paced_server() -> Iterator[tuple[Paced, Stub, RunningServer]]:
    model = Paced()
    family = Family("paced", frozenset({Task.GENERATE}), lambda *_: model, needs_checkpoint=False, max_batch=1)
    FAMILIES["paced"] = family
    try:
        with run_server(models=[{"name": "paced", "family": "paced"}]) as server, server.channel() as channel:
            yield model, Stub(channel), server
    finally:
        del FAMILIES["paced"]


def test_work_ends_when_the_caller_leaves():
    """The pass under way ends at its next step, and the next request has the device; no error is logged for it."""
    with paced_server() as (model, stub, server):
        sent = pb2.StreamGenerationRequest(request=request("left", "never", width=64, height=64, steps=100))
        call = stub.StreamGeneration(sent)
        model.steps.release(2)
        assert [next(call).progress.step for _ in range(2)] == [1, 2]
        call.cancel()
        wait_until(lambda: server.app.status().devices[0].requests == 0)
        model.steps.release(1)
        wait_until(lambda: model.abandoned == ["left"])
        model.steps.release(1)
        assert len(stub.GenerateImage(request("next", width=64, height=64, steps=1)).images) == 1
        assert model.taken == [("left", 1), ("left", 2), ("left", 3), ("next", 1)]


def test_work_ends_at_the_deadline():
    """So it does when time is up."""
    with paced_server() as (model, stub, server):
        model.steps.release(1)
        timeout_s = 0.5
        while not model.taken:  # A busy machine may not even have begun by then.
            with pytest.raises(grpc.RpcError) as caught:
                stub.GenerateImage(request("late", width=64, height=64, steps=100), timeout=timeout_s)
            assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
            timeout_s *= 2
        wait_until(lambda: server.app.status().devices[0].requests == 0)
        model.steps.release(1)
        wait_until(lambda: model.abandoned == ["late"])


def test_others_have_a_turn_between_two_pictures():
    """A request of many pictures does not keep the device from one that came after it."""
    with paced_server() as (model, stub, server), ThreadPoolExecutor(2) as pool:
        many = pool.submit(stub.GenerateImage, request("a", "b", "c", width=64, height=64, steps=1))
        wait_until(lambda: server.app.status().devices[0].batches == 2)  # The first one loaded the model.
        one = pool.submit(stub.GenerateImage, request("x", width=64, height=64, steps=1))
        wait_until(lambda: server.app.status().devices[0].queued_jobs == 1)
        model.steps.release(4)
        assert len(many.result().images) == 3
        assert len(one.result().images) == 1
        assert [prompt for prompt, _ in model.taken] == ["a", "x", "b", "c"]


@pytest.fixture(scope="module")
def rest(painter: RunningServer) -> Iterator[httpx.Client]:  # noqa: F811
    settings = GatewaySettings(server_address=painter.address)
    with GatewayThread(settings) as gateway, httpx.Client(base_url=gateway.url, timeout=PATIENCE_S) as client:
        yield client


def test_rest(rest: httpx.Client, stub: Stub):
    """JSON in, pictures in base64 out."""
    answer = rest.post("/v1/generate", json={"prompts": ["the cat"], "steps": 3, "seed": "7", "everything": {}})
    assert answer.status_code == 200, answer.text
    [image] = answer.json()["images"]
    assert base64.b64decode(image["data"]) == stub.GenerateImage(request()).images[0].data
    assert image["seed"] == "7"
    assert image["segmentation"]["image"] == {"width": 96, "height": 96} | image["segmentation"]["image"]


def test_rest_stream(rest: httpx.Client):
    """One JSON object a line, the steps first."""
    sent = {"request": {"prompts": ["the cat"], "steps": 2}}
    with rest.stream("POST", "/v1/generate:stream", json=sent) as answer:
        assert answer.headers["content-type"] == "application/x-ndjson"
        lines = [json.loads(line)["result"] for line in answer.iter_lines()]
    assert [next(iter(line)) for line in lines] == ["progress", "progress", "image", "pictureChunk", "summary"]
    assert lines[1]["progress"] == {"promptIndex": 0, "step": 2, "steps": 2}


def test_rest_refusal(rest: httpx.Client):
    """What is wrong is said with its field."""
    answer = rest.post("/v1/generate", json={"prompts": ["a"], "width": 65})
    assert answer.status_code == 400
    assert "width: expected a multiple of 8" in answer.json()["message"]
