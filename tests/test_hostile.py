"""Hostile and malformed pictures through the real stack: refused or segmented, never INTERNAL, never lingering."""

import random

import grpc
import numpy as np
import psutil
import pytest
from conftest import Photo, Stubs, encode, run_server
from cutout.v1 import image_pb2, image_service_pb2, mask_pb2
from cutout.v1 import segmentation_service_pb2 as pb2
from cutout_server.images import decoder
from probe_family import Probe, probe_family
from test_imaging_malformed import FILES, HOSTILE
from waiting import PATIENCE_S

BOX = mask_pb2.Box(x_min=2, y_min=2, x_max=30, y_max=30)


def damaged(content: bytes, chance: random.Random) -> bytes:
    """Cut short, or with some bytes changed, headers more often than pixels."""
    if chance.random() < 0.3:
        return content[: chance.randrange(1, len(content))]
    changed = bytearray(content)
    for _ in range(chance.choice((1, 3, 20))):
        changed[chance.randrange(min(len(content), 200) if chance.random() < 0.7 else len(content))] = chance.randrange(
            256
        )
    return bytes(changed)


@pytest.fixture(scope="module", params=["threads", "processes"])
def probed_stubs(request: pytest.FixtureRequest):
    """A server whose model costs nothing, so that the pictures are what is tested; wherever they are decoded."""
    probe = Probe()
    probe.gate.set()
    with (
        pytest.MonkeyPatch.context() as patch,
        probe_family(probe) as model,
        run_server(models=[model]) as server,
        server.channel() as channel,
    ):
        if request.param == "processes":
            patch.setattr(decoder, "THREAD_WORK", 0)
        yield Stubs.over(channel)


def codes(stubs: Stubs, content: bytes) -> tuple[grpc.StatusCode, grpc.StatusCode]:
    """How a picture is answered inline, where it is decoded, and as an upload, where its header is read."""
    request = pb2.SegmentByBoxRequest(image=image_pb2.Image(content=content), boxes=[BOX])
    upload = iter([image_service_pb2.UploadImageRequest(chunk={"data": content})])
    inline = stubs.segmentation.SegmentByBox.future(request, timeout=PATIENCE_S)
    uploaded = stubs.images.UploadImage.future(upload, timeout=PATIENCE_S)
    return inline.code(), uploaded.code()


@pytest.mark.slow
def test_damaged_pictures_by_the_hundred(probed_stubs: Stubs):
    """Seventeen kinds of files, damaged in twenty ways each: a mask or INVALID_ARGUMENT, and memory does not grow."""
    chance = random.Random(7)  # noqa: S311
    process = psutil.Process()
    memory = []
    for _ in range(4):
        for content in FILES.values():
            for _ in range(5):
                answered = codes(probed_stubs, damaged(content, chance))
                assert set(answered) <= {grpc.StatusCode.OK, grpc.StatusCode.INVALID_ARGUMENT}
        memory.append(process.memory_info().rss)
    assert memory[-1] < memory[1] + 40_000_000


@pytest.mark.parametrize("name", HOSTILE)
def test_files_made_to_hurt_are_refused(name: str, probed_stubs: Stubs):
    """Bombs, lies and endless headers are INVALID_ARGUMENT."""
    inline, uploaded = codes(probed_stubs, HOSTILE[name])
    assert inline is grpc.StatusCode.INVALID_ARGUMENT
    assert uploaded in {grpc.StatusCode.OK, grpc.StatusCode.INVALID_ARGUMENT}


@pytest.mark.parametrize("size", [(1, 1), (1, 2), (2, 1), (1, 200), (200, 1)])
def test_pictures_of_few_pixels(size: tuple[int, int], stubs: Stubs):
    """Every task answers about them with the built-in model, in which they are smaller than all that it looks for."""
    content = encode(np.full((*size, 3), 90, np.uint8), ".png")
    image = image_pb2.Image(content=content)
    whole = mask_pb2.Box(x_max=size[1], y_max=size[0])
    stubs.segmentation.SegmentEverything(pb2.SegmentEverythingRequest(image=image))
    stubs.segmentation.SegmentByText(pb2.SegmentByTextRequest(image=image, phrases=["face", "red", "cat", "object"]))
    assert stubs.segmentation.SegmentByBox(pb2.SegmentByBoxRequest(image=image, boxes=[whole]))
    overlay = image_service_pb2.RenderOverlayRequest(picture={"data": content})
    assert stubs.images.RenderOverlay(overlay).data


def test_a_bad_picture_hurts_nobody_else(probed_stubs: Stubs, photos: dict[str, Photo]):
    """Good requests in flight beside bad ones are answered as if they were alone."""
    good = pb2.SegmentByBoxRequest(image=image_pb2.Image(content=photos["chelsea"].jpeg), boxes=[BOX])
    alone = probed_stubs.segmentation.SegmentByBox(good).segmentation.objects
    futures = []
    for content in list(FILES.values())[:8]:
        bad = pb2.SegmentByBoxRequest(image=image_pb2.Image(content=content[:60]), boxes=[BOX])
        futures.append((bad, probed_stubs.segmentation.SegmentByBox.future(bad)))
        futures.append((good, probed_stubs.segmentation.SegmentByBox.future(good)))
    for request, future in futures:
        if request is good:
            assert future.result().segmentation.objects == alone
        else:
            assert future.code() is grpc.StatusCode.INVALID_ARGUMENT
