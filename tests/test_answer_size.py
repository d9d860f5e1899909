"""Answers that outgrow one message: refused with the way out, before all is made, and recorded as what they were."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import grpc
import numpy as np
import pytest
from conftest import RunningServer, Stubs, encode, run_server
from cutout.v1 import (
    generation_service_pb2,
    generation_service_pb2_grpc,
    image_pb2,
    image_service_pb2,
    mask_pb2,
    segmentation_pb2,
)
from cutout.v1 import segmentation_service_pb2 as pb2
from cutout_common.status import unpack
from cutout_server.models.family import Family
from cutout_server.models.queries import GenerateQuery
from cutout_server.models.registry import FAMILIES
from cutout_server.types import RgbImage, Task
from google.rpc.status_pb2 import Status
from grpc_status import rpc_status
from probe_family import Probe, probe_family
from test_metrics import scrape

MIB = 2**20
LIMIT = 2 * MIB
LOGITS = 256 * 256 * 4
BOX = mask_pb2.Box(x_min=1, y_min=1, x_max=9, y_max=9)
IMAGE = image_pb2.Image(tensor=image_pb2.RawTensor(height=16, width=16, channels=3, data=bytes(768)))
OPTIONS = segmentation_pb2.SegmentationOptions(return_logits=True)


class Noise:
    """Paints pictures that no file format makes small."""

    nbytes = 0

    def __init__(self) -> None:
        self.made = 0

    def generate(self, queries: Sequence[GenerateQuery]) -> list[RgbImage]:
        """Random pixels."""
        self.made += len(queries)
        chance = np.random.default_rng(self.made)
        return [chance.integers(0, 256, (query.height, query.width, 3), np.uint8) for query in queries]


@dataclass(frozen=True)
class Small:
    """A server whose messages have at most 2 MiB."""

    server: RunningServer
    channel: grpc.Channel
    probe: Probe
    noise: Noise

    @property
    def stubs(self) -> Stubs:
        return Stubs.over(self.channel)

    def counted(self, code: str) -> float:
        """Calls of any method that have ended with a code."""
        found = scrape(self.server).items()
        return sum(n for (name, labels), n in found if name.endswith("handled_total") and ("grpc_code", code) in labels)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> Iterator[Small]:
    probe, noise = Probe(), Noise()
    probe.gate.set()
    family = Family(name="noise", tasks=frozenset({Task.GENERATE}), load=lambda *_: noise, needs_checkpoint=False)
    monkeypatch.setitem(FAMILIES, "noise", family)
    with (
        probe_family(probe) as model,
        run_server(
            models=[model, {"name": "noise", "family": "noise"}], max_message_bytes=LIMIT, answers_cache_bytes=MIB
        ) as server,
        grpc.insecure_channel(server.address, [("grpc.max_receive_message_length", LIMIT)]) as channel,
    ):
        yield Small(server, channel, probe, noise)


def boxes(count: int, options: segmentation_pb2.SegmentationOptions = OPTIONS) -> pb2.SegmentByBoxRequest:
    return pb2.SegmentByBoxRequest(image=IMAGE, boxes=[BOX] * count, options=options)


def assert_refused(status: Status, instead: str) -> None:
    """The refusal has its reason, names the way out, and does not invite to try again."""
    details = unpack(status)
    assert (status.code, details.reason, details.retry_after_s) == (8, "ANSWER_TOO_LARGE", None)
    assert f"{LIMIT:,} bytes" in status.message
    assert instead in status.message


def refusal(call: grpc.UnaryUnaryMultiCallable, request: object) -> Status:
    with pytest.raises(grpc.RpcError) as refused:
        call(request)
    status = rpc_status.from_call(refused.value)
    assert status is not None, refused.value.details()
    return status


def test_an_answer_that_is_too_large_is_given_up_early(small: Small):
    """The reason names StreamSegmentation; masks that nobody will get are not made; the refusal is what is counted."""
    assert_refused(refusal(small.stubs.segmentation.SegmentByBox, boxes(200)), "StreamSegmentation")
    assert small.probe.count("decode") == 64
    assert (small.counted("OK"), small.counted("RESOURCE_EXHAUSTED")) == (0, 1)
    metrics = scrape(small.server)
    assert metrics["cutout_requests_refused_total", frozenset({("reason", "ANSWER_TOO_LARGE")})] == 1


def test_the_stream_that_it_names_has_all_of_it(small: Small):
    """StreamSegmentation answers the same request whole."""
    stream = small.stubs.segmentation.StreamSegmentation(pb2.StreamSegmentationRequest(box=boxes(200)))
    assert sum(message.WhichOneof("event") == "object" for message in stream) == 200


def test_what_fits_is_answered_to_the_last_byte(small: Small):
    """An answer is refused by us or arrives: none is lost between our bound and gRPC's."""
    for count in range(LIMIT // LOGITS - 2, LIMIT // LOGITS + 2):
        for more in range(5):
            options = segmentation_pb2.SegmentationOptions(return_logits=True, mask_formats=[1, 2, 3, 4][:more])
            try:
                answer = small.stubs.segmentation.SegmentByBox(boxes(count, options))
            except grpc.RpcError as error:
                assert count >= LIMIT // LOGITS
                assert_refused(rpc_status.from_call(error), "StreamSegmentation")
            else:
                assert len(answer.segmentation.objects) == count < LIMIT // LOGITS


def test_a_session_outlives_an_answer_that_is_too_large(small: Small):
    """The prompt is refused, the next one is answered."""
    prompts = [pb2.SegmentSessionRequest(box=boxes(count)) for count in (200, 1)]
    for prompt in prompts:
        prompt.box.ClearField("image")
    requests = [pb2.SegmentSessionRequest(open={"image": IMAGE}), *prompts]
    _, refused, answered = small.stubs.segmentation.SegmentSession(iter(requests))
    assert_refused(refused.error, "StreamSegmentation")
    assert len(answered.segmentation.objects) == 1


def test_an_overlay_that_is_too_large_is_refused(small: Small):
    """RenderOverlay, too, says what streams."""
    photo = encode(np.random.default_rng(0).integers(0, 256, (1000, 1000, 3), np.uint8))
    inside = pb2.SegmentByBoxRequest(image={"content": photo}, boxes=[BOX], options={"overlay": 1})
    alone = image_service_pb2.RenderOverlayRequest(picture={"data": photo}, boxes=[1, 1, 9, 9])
    assert_refused(refusal(small.stubs.segmentation.SegmentByBox, inside), "StreamSegmentation")
    assert_refused(refusal(small.stubs.images.RenderOverlay, alone), "StreamSegmentation")
    stream = small.stubs.segmentation.StreamSegmentation(pb2.StreamSegmentationRequest(box=inside))
    assert sum(len(message.overlay_chunk.data) for message in stream) > LIMIT


def test_generated_pictures_that_are_too_large_together(small: Small):
    """GenerateImage names StreamGeneration and paints no more; the stream has them all."""
    stub = generation_service_pb2_grpc.GenerationServiceStub(small.channel)
    request = generation_service_pb2.GenerateImageRequest(prompts=["noise"] * 6, width=512, height=512, steps=1)
    assert_refused(refusal(stub.GenerateImage, request), "StreamGeneration")
    assert small.noise.made == 3
    stream = stub.StreamGeneration(generation_service_pb2.StreamGenerationRequest(request=request))
    assert sum(message.WhichOneof("event") == "image" for message in stream) == 6
