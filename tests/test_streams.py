"""Streams: uploads, object by object answers, sessions; large pictures through small messages; slow readers."""

import contextlib
import hashlib
import io
import re
import threading
import time
from collections.abc import Iterator

import grpc
import httpx
import numpy as np
import psutil
import pytest
from conftest import Photo, RunningServer, Stubs, run_server
from cutout.v1 import image_pb2, image_service_pb2, mask_pb2, segmentation_pb2
from cutout.v1 import segmentation_service_pb2 as pb2
from PIL import Image as Pillow
from probe_family import Probe, probe_family
from pycocotools import mask as coco
from waiting import PATIENCE_S, settled, wait_until

from tools import FIXED_WINDOW

Options = segmentation_pb2.SegmentationOptions
BOX = mask_pb2.Box(x_min=60, y_min=20, x_max=400, y_max=290)
DEFAULT_MESSAGE_LIMIT = 4 * 1024 * 1024


def pieces(data: bytes, size: int = 512 * 1024) -> Iterator[bytes]:
    for start in range(0, len(data), size):
        yield data[start : start + size]


def upload(stubs: Stubs, data: bytes, **first: str) -> image_service_pb2.UploadImageResponse:
    messages = [image_service_pb2.UploadImageRequest(chunk={"data": piece}) for piece in pieces(data)]
    messages[0] = image_service_pb2.UploadImageRequest(chunk=messages[0].chunk, **first)
    return stubs.images.UploadImage(iter(messages))


def assembled(
    messages: Iterator[pb2.StreamSegmentationResponse],
) -> tuple[list[str], list[segmentation_pb2.SegmentedObject], bytes]:
    """The order of events, the objects with their chunked masks put back, and the overlay."""
    events, objects, overlay = [], [], b""
    pieces_of: dict[int, bytes] = {}
    for message in messages:
        assert message.ByteSize() < DEFAULT_MESSAGE_LIMIT
        kind = message.WhichOneof("event")
        events.append(kind)
        if kind == "object":
            objects.append(message.object)
        elif kind == "mask_chunk":
            chunk = message.mask_chunk
            pieces_of[chunk.mask_index] = pieces_of.get(chunk.mask_index, b"") + chunk.data
            if chunk.last:
                objects[-1].masks[chunk.mask_index].CopyFrom(mask_pb2.Mask.FromString(pieces_of.pop(chunk.mask_index)))
        elif kind == "overlay_chunk":
            overlay += message.overlay_chunk.data
    assert not pieces_of
    return events, objects, overlay


def test_an_upload_can_be_used_read_back_and_deleted(stubs: Stubs, photos: dict[str, Photo]):
    """What was uploaded is described, segmented by its id, returned byte for byte, and forgotten on request."""
    data = photos["chelsea"].jpeg
    stored = upload(stubs, data, expected_sha256=hashlib.sha256(data).hexdigest().upper())
    assert (stored.sha256, stored.size_bytes) == (hashlib.sha256(data).hexdigest(), len(data))
    assert (stored.content_type, stored.width, stored.height) == ("image/jpeg", 451, 300)
    assert time.time() + 3000 < stored.expire_time.seconds < time.time() + 3700
    image = image_pb2.Image(image_id=stored.image_id)
    by_id = stubs.segmentation.SegmentByBox(pb2.SegmentByBoxRequest(image=image, boxes=[BOX])).segmentation
    inline = image_pb2.Image(content=data)
    by_content = stubs.segmentation.SegmentByBox(pb2.SegmentByBoxRequest(image=inline, boxes=[BOX])).segmentation
    assert by_id.objects == by_content.objects
    request = image_service_pb2.GetImageRequest(image_id=stored.image_id)
    bodies = list(stubs.images.GetImage(request))
    assert b"".join(body.data for body in bodies) == data
    assert bodies[0].content_type == "image/jpeg"
    stubs.images.DeleteImage(image_service_pb2.DeleteImageRequest(image_id=stored.image_id))
    with pytest.raises(grpc.RpcError) as gone:
        list(stubs.images.GetImage(request))
    assert gone.value.code() is grpc.StatusCode.NOT_FOUND


@pytest.mark.parametrize(
    ("data", "first", "field"),
    [
        (b"this is no picture", {}, "chunk.data"),
        (None, {"expected_sha256": "0" * 64}, "expected_sha256"),
    ],
)
def test_a_refused_upload_leaves_nothing(
    data: bytes | None, first: dict[str, str], field: str, stubs: Stubs, photos: dict[str, Photo], server: RunningServer
):
    """Bytes that are no picture, or not the announced ones, are refused by name and not kept."""
    before = server.app.status().stored_images
    with pytest.raises(grpc.RpcError) as refused:
        upload(stubs, data or photos["coffee"].jpeg, **first)
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert field in refused.value.details()
    assert server.app.status().stored_images <= before


@pytest.mark.slow
def test_the_store_is_bounded_in_number_and_age(photos: dict[str, Photo]):
    """The least recently used uploads make room, and unused ones are forgotten after their time."""
    data = photos["chelsea"].jpeg
    with run_server(image_store_images=2) as server, server.channel() as channel:
        stubs = Stubs.over(channel)

        def there(image_id: str) -> bool:
            call = stubs.images.GetImage(image_service_pb2.GetImageRequest(image_id=image_id))
            try:
                return bool(list(call))
            except grpc.RpcError:
                return call.code() is not grpc.StatusCode.NOT_FOUND

        first, second = upload(stubs, data).image_id, upload(stubs, data).image_id
        assert there(first)
        third = upload(stubs, data).image_id
        assert [there(first), there(second), there(third)] == [True, False, True]
    with run_server(image_store_ttl_s=0.2) as server, server.channel() as channel:
        stubs = Stubs.over(channel)
        image_id = upload(stubs, data).image_id
        time.sleep(0.3)
        assert not there(image_id)
        assert server.app.status().stored_bytes == 0


def test_a_stream_gives_what_the_unary_call_gives(stubs: Stubs, photos: dict[str, Photo]):
    """Header, objects in order, overlay, summary; the same objects as SegmentByBox."""
    request = pb2.SegmentByBoxRequest(
        image=image_pb2.Image(content=photos["chelsea"].jpeg),
        boxes=[BOX, mask_pb2.Box(x_min=100, y_min=60, x_max=300, y_max=250)],
        options=Options(
            overlay=Options.OVERLAY_FORMAT_PNG, mask_formats=[mask_pb2.MASK_FORMAT_PNG, mask_pb2.MASK_FORMAT_RLE]
        ),
    )
    unary = stubs.segmentation.SegmentByBox(request).segmentation
    events, objects, overlay = assembled(
        stubs.segmentation.StreamSegmentation(pb2.StreamSegmentationRequest(box=request))
    )
    assert events[:3] == ["header", "object", "object"]
    assert events[-1] == "summary"
    assert objects == list(unary.objects)
    assert overlay == unary.overlay.data


@pytest.mark.slow
def test_a_hundred_megapixels_go_up_and_come_down_in_small_messages(stubs: Stubs):
    """A 10,000 x 10,000 picture and its masks pass a channel that still has gRPC's 4 MiB limits."""
    rng = np.random.default_rng(0)
    scene = np.full((250, 250, 3), (40, 90, 40), np.uint8)
    scene[60:200, 50:210] = (200, 60, 50)
    scene = (scene + rng.integers(0, 25, scene.shape)).astype(np.uint8)
    file = io.BytesIO()
    Pillow.fromarray(scene).resize((10_000, 10_000), Pillow.Resampling.BILINEAR).save(file, "JPEG", quality=80)
    data = file.getvalue()
    stored = upload(stubs, data)
    assert (stored.width, stored.height) == (10_000, 10_000)
    request = pb2.SegmentByBoxRequest(
        image=image_pb2.Image(image_id=stored.image_id),
        boxes=[mask_pb2.Box(x_min=1_800, y_min=2_200, x_max=8_600, y_max=8_200)],
        options=Options(mask_formats=[mask_pb2.MASK_FORMAT_BITS, mask_pb2.MASK_FORMAT_RLE]),
    )
    events, (found,), _ = assembled(
        stubs.segmentation.StreamSegmentation(pb2.StreamSegmentationRequest(box=request), timeout=PATIENCE_S)
    )
    assert events.count("mask_chunk") >= 24
    bits = np.unpackbits(np.frombuffer(found.masks[0].bits.data, np.uint8).reshape(10_000, 1_250), axis=1)
    rle = found.masks[1].rle
    assert np.array_equal(bits, coco.decode({"size": list(rle.size), "counts": rle.counts}))
    truth = np.zeros((10_000, 10_000), bool)
    truth[2_400:8_000, 2_000:8_400] = True
    bits = bits.astype(bool)
    assert (bits & truth).sum() / (bits | truth).sum() > 0.95


@pytest.mark.slow
def test_a_slow_reader_holds_its_own_call_back():
    """While a reader takes nothing, the server stops making masks for it: nothing piles up."""
    probe = Probe()
    probe.gate.set()
    pixels = np.zeros((3_000, 3_000, 3), np.uint8)
    tensor = image_pb2.RawTensor(height=3_000, width=3_000, channels=3, data=pixels.tobytes())
    box = mask_pb2.Box(x_min=20, y_min=20, x_max=2_900, y_max=2_900)
    request = pb2.StreamSegmentationRequest(
        box=pb2.SegmentByBoxRequest(
            image=image_pb2.Image(tensor=tensor),
            boxes=[box] * 100,
            options=Options(mask_formats=[mask_pb2.MASK_FORMAT_BITS]),
        )
    )
    with probe_family(probe) as model, run_server(models=[model]) as server, server.channel(FIXED_WINDOW) as channel:
        stream = Stubs.over(channel).segmentation.StreamSegmentation(request)
        assert next(stream).WhichOneof("event") == "header"
        assert next(stream).WhichOneof("event") == "object"
        made = settled(lambda: server.app.status().devices[0].jobs)
        memory = psutil.Process().memory_info().rss
        assert settled(lambda: server.app.status().devices[0].jobs) == made < 100
        assert psutil.Process().memory_info().rss < memory + 50_000_000
        stream.cancel()


def test_a_session_keeps_the_embedding_warm(stubs: Stubs, photos: dict[str, Photo], server: RunningServer):
    """Open, chunks, prompts of every kind; refused prompts do not end it; one encode for masks, one for words."""
    scene = np.ascontiguousarray(photos["astronaut"].pixels[::-1])
    file = io.BytesIO()
    Pillow.fromarray(scene).save(file, "PNG")
    misses = server.app.status().devices[0].embeddings.misses
    stored = server.app.status().stored_images

    def messages() -> Iterator[pb2.SegmentSessionRequest]:
        yield pb2.SegmentSessionRequest(open=pb2.SessionOpen(segmenter="builtin"))
        chunks = list(pieces(file.getvalue(), 100_000))
        for index, chunk in enumerate(chunks):
            yield pb2.SegmentSessionRequest(image_chunk={"data": chunk, "last": index == len(chunks) - 1})
        yield pb2.SegmentSessionRequest(box=pb2.SegmentByBoxRequest(boxes=[BOX]))
        yield pb2.SegmentSessionRequest(box=pb2.SegmentByBoxRequest(boxes=[mask_pb2.Box(x_min=9, x_max=1, y_max=1)]))
        yield pb2.SegmentSessionRequest(box=pb2.SegmentByBoxRequest(boxes=[BOX], segmenter="builtin"))
        points = [mask_pb2.Point(x=220, y=400)]
        yield pb2.SegmentSessionRequest(points=pb2.SegmentByPointsRequest(prompts=[pb2.ObjectPrompt(points=points)]))
        yield pb2.SegmentSessionRequest(text=pb2.SegmentByTextRequest(phrases=["orange"]))
        yield pb2.SegmentSessionRequest(open=pb2.SessionOpen())

    answers = list(stubs.segmentation.SegmentSession(messages()))
    kinds = [answer.WhichOneof("message") for answer in answers]
    assert kinds == ["opened", "segmentation", "error", "error", "segmentation", "segmentation", "error"]
    assert [answer.prompt_number for answer in answers] == [0, 0, 1, 2, 3, 4, 5]
    assert answers[0].opened.image.width == 512
    assert "box.boxes[0].x_max" in answers[2].error.message
    assert "box.segmenter" in answers[3].error.message
    assert all(a.segmentation.timings.embedding_cached for a in (answers[1], answers[4]))
    assert server.app.status().devices[0].embeddings.misses == misses + 2  # One for masks, one for words.
    assert server.app.status().stored_images <= stored  # Those of other tests may have had their time.


@pytest.mark.parametrize(
    ("messages", "complaint"),
    [
        ([], "open"),
        ([pb2.SegmentSessionRequest(image_chunk={"data": b"x"})], "open"),
        ([pb2.SegmentSessionRequest(open={})], "image_chunk.last"),
        ([pb2.SegmentSessionRequest(open={}), pb2.SegmentSessionRequest(box={})], "image_chunk"),
        (
            [pb2.SegmentSessionRequest(open={}), pb2.SegmentSessionRequest(image_chunk={"data": b"x", "last": True})],
            "image_chunk.data",
        ),
        ([pb2.SegmentSessionRequest(open={"segmenter": "sam9", "image": {"image_id": "x"}})], "open.segmenter"),
        ([pb2.SegmentSessionRequest(open={"image": {}})], "open.image"),
    ],
)
def test_a_session_that_cannot_begin_says_why(messages: list[pb2.SegmentSessionRequest], complaint: str, stubs: Stubs):
    """The first messages are checked like any request."""
    with pytest.raises(grpc.RpcError) as refused:
        list(stubs.segmentation.SegmentSession(iter(messages)))
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert complaint in refused.value.details()


def test_draining_ends_idle_sessions(photos: dict[str, Photo]):
    """A session between two prompts does not hold up the shutdown."""
    done = threading.Event()

    def messages() -> Iterator[pb2.SegmentSessionRequest]:
        image = image_pb2.Image(content=photos["chelsea"].jpeg)
        yield pb2.SegmentSessionRequest(open=pb2.SessionOpen(image=image))
        done.wait(PATIENCE_S)

    with run_server(drain_s=2 * PATIENCE_S) as server, server.channel() as channel:
        session = Stubs.over(channel).segmentation.SegmentSession(messages())
        assert next(session).WhichOneof("message") == "opened"
        stopped = server.stop()
        with pytest.raises(grpc.RpcError) as refused:
            next(session)
        done.set()
        stopped.result(PATIENCE_S)
    assert refused.value.code() is grpc.StatusCode.UNAVAILABLE


def test_who_reads_later_holds_no_seat_until_then(photos: dict[str, Photo]):
    """Streams whose callers read nothing for now let others in, and are whole when they are read after all."""
    probe = Probe()
    probe.gate.set()
    picture = io.BytesIO()
    Pillow.new("RGB", (1200, 1200)).save(picture, "png")
    boxes = [mask_pb2.Box(x_min=x, y_min=20, x_max=1190, y_max=1190) for x in range(100) if x != 13]
    options = Options(mask_formats=[mask_pb2.MASK_FORMAT_BITS])
    request = pb2.SegmentByBoxRequest(image={"content": picture.getvalue()}, boxes=boxes, options=options)
    with (
        probe_family(probe) as model,
        run_server(models=[model], max_requests_per_device=2, max_stall_s=PATIENCE_S) as server,
        contextlib.ExitStack() as stack,
    ):
        channels = [stack.enter_context(server.channel(FIXED_WINDOW)) for _ in range(3)]
        later = [
            Stubs.over(channel).segmentation.StreamSegmentation(pb2.StreamSegmentationRequest(box=request))
            for channel in channels[:2]
        ]
        wait_until(lambda: probe.count("decode") > 0 and server.app.status().devices[0].requests == 0)
        small = pb2.SegmentByBoxRequest(image={"content": photos["chelsea"].jpeg}, boxes=[BOX])
        assert Stubs.over(channels[2]).segmentation.SegmentByBox(small).segmentation.objects
        assert probe.count("decode") < 2 * len(boxes)
        for stream in later:
            events, objects, _ = assembled(stream)
            assert (len(objects), events[-1]) == (len(boxes), "summary")
        assert server.app.status().devices[0].requests == 0


def test_who_never_reads_gives_its_seat_back(photos: dict[str, Photo]):
    """Callers who open streams and read nothing do not lock out the next one."""
    probe = Probe()
    probe.gate.set()
    picture = io.BytesIO()
    Pillow.new("RGB", (1200, 1200)).save(picture, "png")
    boxes = [mask_pb2.Box(x_min=x, y_min=20, x_max=1190, y_max=1190) for x in range(100) if x != 13]
    options = Options(mask_formats=[mask_pb2.MASK_FORMAT_BITS])
    request = pb2.SegmentByBoxRequest(image={"content": picture.getvalue()}, boxes=boxes, options=options)
    with (
        probe_family(probe) as model,
        run_server(models=[model], max_requests_per_device=2, max_stall_s=0.5) as server,
        contextlib.ExitStack() as stack,
    ):
        channels = [stack.enter_context(server.channel(FIXED_WINDOW)) for _ in range(3)]
        idle = [
            Stubs.over(channel).segmentation.StreamSegmentation(
                pb2.StreamSegmentationRequest(box=request), timeout=36_000
            )
            for channel in channels[:2]
        ]
        wait_until(lambda: probe.count("decode") > 0 and server.app.status().devices[0].requests == 0)
        small = pb2.SegmentByBoxRequest(image={"content": photos["chelsea"].jpeg}, boxes=[BOX])
        assert Stubs.over(channels[2]).segmentation.SegmentByBox(small).segmentation.objects
        ended = 'grpc_code="DEADLINE_EXCEEDED",grpc_method="StreamSegmentation"'

        def both_ended() -> object:
            metrics = httpx.get(server.metrics_url, timeout=PATIENCE_S).text
            return re.search(rf"grpc_server_handled_total\{{{ended}.*}} 2.0", metrics)

        wait_until(both_ended)
        for call in idle:
            with pytest.raises(grpc.RpcError, match="took in nothing") as told:
                list(call)
            assert told.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
