"""Objects followed live: TrackObjects through the real stack, by the built-in model."""

import queue
from collections.abc import Iterator

import grpc
import numpy as np
import pytest
from conftest import RunningServer, Stubs, encode, run_server
from cutout.v1 import mask_pb2, tracking_service_pb2_grpc
from cutout.v1 import model_service_pb2 as models_pb2
from cutout.v1 import segmentation_service_pb2 as segmentation_pb2
from cutout.v1 import tracking_service_pb2 as pb2
from cutout_common.masks import rle_encode
from google.rpc import error_details_pb2
from pycocotools import mask as coco
from skimage import data
from waiting import wait_until

SIZE = (96, 128)
SIDE = 40  # Of the object, in pixels.
BOX = mask_pb2.Box(x_min=16, y_min=20, x_max=56, y_max=60)


def place(index: int) -> tuple[int, int]:
    """Top and left of the object in a frame."""
    return 20 + 2 * index, 16 + 3 * index


def picture(index: int) -> np.ndarray:
    """A coffee cup that moves over a cat's fur."""
    frame = np.ascontiguousarray(data.chelsea()[100 : 100 + SIZE[0], 100 : 100 + SIZE[1]])
    top, left = place(index)
    frame[top : top + SIDE, left : left + SIDE] = data.coffee()[120:280:4, 240:400:4]
    return frame


def truth(index: int) -> np.ndarray:
    mask = np.zeros(SIZE, np.bool_)
    top, left = place(index)
    mask[top : top + SIDE, left : left + SIDE] = True
    return mask


def frame(index: int, *prompts: pb2.TrackPrompt, pixels: np.ndarray | None = None) -> pb2.TrackObjectsRequest:
    content = encode(picture(index) if pixels is None else pixels, ".png")
    return pb2.TrackObjectsRequest(
        frame=pb2.Frame(frame_index=index, image={"content": content}, timestamp_seconds=index / 30, prompts=prompts)
    )


def boxed(number: int, index: int = 0) -> pb2.TrackPrompt:
    top, left = place(index)
    box = mask_pb2.Box(x_min=left, y_min=top, x_max=left + SIDE, y_max=top + SIDE)
    return pb2.TrackPrompt(object_id=number, box=box)


def masked(number: int, mask: np.ndarray) -> pb2.TrackPrompt:
    return pb2.TrackPrompt(object_id=number, mask={"size": mask.shape, "counts": rle_encode(mask).decode()})


def saying(message: pb2.TrackObjectsRequest, *phrases: str) -> pb2.TrackObjectsRequest:
    message.frame.phrases.extend(phrases)
    return message


def opened(**options: object) -> pb2.TrackObjectsRequest:
    return pb2.TrackObjectsRequest(open=pb2.TrackingOpen(**options))


def decoded(found: pb2.TrackedObject) -> np.ndarray:
    rle = found.masks[0].rle
    return coco.decode({"size": list(rle.size), "counts": rle.counts}).astype(bool)


def iou(one: np.ndarray, other: np.ndarray) -> float:
    return np.count_nonzero(one & other) / np.count_nonzero(one | other)


class Live:
    """A session that is asked one thing at a time."""

    def __init__(self, channel: grpc.Channel, **options: object) -> None:
        self._messages: queue.SimpleQueue[pb2.TrackObjectsRequest | None] = queue.SimpleQueue()
        self.answers = tracking_service_pb2_grpc.TrackingServiceStub(channel).TrackObjects(
            iter(self._messages.get, None)
        )
        self.opened = self.ask(opened(**options)).opened

    def send(self, *messages: pb2.TrackObjectsRequest) -> None:
        for message in messages:
            self._messages.put(message)

    def ask(self, message: pb2.TrackObjectsRequest) -> pb2.TrackObjectsResponse:
        self.send(message)
        return next(self.answers)

    def end(self) -> list[pb2.TrackObjectsResponse]:
        self._messages.put(None)
        return list(self.answers)


@pytest.fixture(scope="module")
def channel(server: RunningServer) -> Iterator[grpc.Channel]:
    with server.channel() as opened:
        yield opened


@pytest.fixture
def live(channel: grpc.Channel) -> Iterator[Live]:
    session = Live(channel)
    yield session
    session.end()


def violations(status: object) -> list[str]:
    for detail in status.details:
        bad = error_details_pb2.BadRequest()
        if detail.Unpack(bad):
            return [violation.field for violation in bad.field_violations]
    return []


def test_objects_are_followed_corrected_added_and_removed(server: RunningServer, stubs: Stubs, live: Live):
    """Every frame is answered in order with every object, whatever becomes of these meanwhile."""
    assert live.opened.tracker == "builtin"
    first = live.ask(frame(0, boxed(7))).frame
    assert (first.frame_index, first.timestamp_seconds, first.corrected) == (0, 0.0, False)
    assert [found.object_id for found in first.objects] == [7]
    live.ask(frame(1, masked(3, ~truth(1))))
    answers = [live.ask(frame(index)) for index in (2, 4, 5)]
    for answer, index in zip(answers, (2, 4, 5), strict=True):
        assert answer.frame.frame_index == index
        assert [found.object_id for found in answer.frame.objects] == [3, 7]
        background, cup = answer.frame.objects
        assert background.present
        assert cup.present
        assert iou(decoded(cup), truth(index)) > 0.6
        assert cup.area == decoded(cup).sum()
        assert 0.5 < cup.presence <= 1
    timings = answers[-1].frame.timings
    assert min(timings.decode_ms, timings.track_ms, timings.masks_ms, timings.total_ms) > 0
    assert [answer.message_number for answer in answers] == [2, 3, 4]
    corrected = live.ask(pb2.TrackObjectsRequest(correct={"frame_index": 4, "prompts": [masked(7, truth(4))]})).frame
    assert (corrected.frame_index, corrected.corrected) == (4, True)
    assert [found.object_id for found in corrected.objects] == [7]
    assert iou(decoded(corrected.objects[0]), truth(4)) > 0.95
    status = stubs.models.GetStatus(models_pb2.GetStatusRequest()).tracking
    assert (status.sessions, status.objects) == (1, 2)
    assert status.memory_bytes == corrected.memory_bytes > 0
    removed = live.ask(pb2.TrackObjectsRequest(remove={"object_ids": [3]})).removed
    assert list(removed.object_ids) == [7]
    assert [found.object_id for found in live.ask(frame(6)).frame.objects] == [7]
    assert not live.end()
    wait_until(lambda: server.app.status().tracking.memory_bytes == 0)
    assert server.app.status().tracking.sessions == 0


@pytest.mark.parametrize(
    ("message", "fields"),
    [
        (saying(frame(9), "a wombat"), ["frame.phrases[0]"]),
        (frame(9, pixels=np.zeros((50, 60, 3), np.uint8)), ["frame.image"]),
        (pb2.TrackObjectsRequest(frame={"frame_index": 9, "image": {"content": b"broken"}}), ["frame.image.content"]),
        (pb2.TrackObjectsRequest(frame={"frame_index": 9}), ["frame.image"]),
        (
            pb2.TrackObjectsRequest(frame={"frame_index": 9, "phrases": [" "]}),
            ["frame.phrases[0]", "frame.image"],
        ),
        (frame(0), ["frame.frame_index"]),
        (frame(9, boxed(1), boxed(1)), ["frame.prompts[1].object_id"]),
        (frame(9, pb2.TrackPrompt(object_id=1)), ["frame.prompts[0]"]),
        (frame(9, masked(1, np.ones((5, 5), np.bool_))), ["frame.prompts[0].mask"]),
        (frame(9, masked(1, np.zeros(SIZE, np.bool_))), ["frame.prompts[0].mask"]),
        (frame(9, pb2.TrackPrompt(mask={"size": SIZE, "counts": "~~"})), ["frame.prompts[0].mask"]),
        (frame(9, pb2.TrackPrompt(points=[{"x": 500, "y": 5}])), ["frame.prompts[0].points[0]"]),
        (pb2.TrackObjectsRequest(correct={"frame_index": 5, "prompts": [boxed(1)]}), ["correct.frame_index"]),
        (pb2.TrackObjectsRequest(correct={"frame_index": 0}), ["correct.prompts"]),
        (pb2.TrackObjectsRequest(remove={"object_ids": [4]}), ["remove.object_ids[0]"]),
        (pb2.TrackObjectsRequest(remove={}), ["remove.object_ids"]),
        (pb2.TrackObjectsRequest(), ["message"]),
        (opened(), ["open"]),
    ],
)
def test_what_is_refused_is_named_and_passed_over(
    channel: grpc.Channel, message: pb2.TrackObjectsRequest, fields: list[str]
):
    """The session goes on as if it had not come."""
    live = Live(channel, held_frames=1)
    before = live.ask(frame(0, boxed(1))).frame
    refused = live.ask(message)
    assert refused.WhichOneof("message") == "error"
    assert refused.error.code == grpc.StatusCode.INVALID_ARGUMENT.value[0]
    assert violations(refused.error) == fields
    kind = message.WhichOneof("message")
    assert refused.HasField("frame_index") == (kind in {"frame", "correct"})
    if refused.HasField("frame_index"):
        assert refused.frame_index == getattr(message, kind).frame_index
    corrected = live.ask(pb2.TrackObjectsRequest(correct={"frame_index": 0, "prompts": [boxed(1)]}))
    assert corrected.frame.corrected  # The frame before is held still.
    after = live.ask(frame(10)).frame
    assert [found.object_id for found in after.objects] == [found.object_id for found in before.objects]
    live.end()


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"tracker": "nobody"}, "open.tracker"),
        ({"held_frames": 17}, "open.held_frames"),
        ({"drop_policy": 9}, "open.drop_policy"),
        ({"box_threshold": 2}, "open.box_threshold"),
        ({"first_found_id": 2**31 + 1}, "open.first_found_id"),
        ({"options": {"mask_formats": [1, 1]}}, "open.options.mask_formats"),
        ({"options": {"mask_threshold": 99}}, "open.options.mask_threshold"),
        (None, "open"),
    ],
)
def test_a_session_that_cannot_begin_is_refused(server: RunningServer, options: dict | None, field: str):
    """The field is named."""
    first = frame(0) if options is None else opened(**options)
    with server.channel() as channel, pytest.raises(grpc.RpcError) as refused:
        list(tracking_service_pb2_grpc.TrackingServiceStub(channel).TrackObjects(iter([first])))
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert field in refused.value.details()


def test_objects_may_be_kept_from_overlapping(server: RunningServer):
    """Of two objects of one place each pixel is one's; every format is sent that was asked for."""
    formats = [mask_pb2.MASK_FORMAT_RLE, mask_pb2.MASK_FORMAT_BITS, mask_pb2.MASK_FORMAT_PNG]
    with server.channel() as channel:
        live = Live(channel, options={"non_overlapping": True, "mask_formats": formats})
        everything = np.ones(SIZE, np.bool_)
        objects = live.ask(frame(0, masked(1, truth(0)), masked(2, everything))).frame.objects
        first, second = map(decoded, objects)
        assert not (first & second).any()
        assert (first | second).all()
        assert [mask.WhichOneof("encoding") for mask in objects[0].masks] == ["rle", "bits", "png"]
        live.end()


def squares(index: int) -> np.ndarray:
    """A blue square that moves; from frame 3 on a red one, too."""
    pixels = np.full((*SIZE, 3), 128, np.uint8)
    pixels[10:40, 10 + 2 * index : 40 + 2 * index] = (0, 0, 220)
    if index >= 3:
        pixels[50:80, 70 - 2 * index : 100 - 2 * index] = (220, 0, 0)
    return pixels


def test_words_are_looked_for_again(channel: grpc.Channel):
    """In each n-th frame: what is followed stays one object, what is new gets an id that is free."""
    live = Live(channel, phrases_every=2, first_found_id=4)
    corner = np.zeros(SIZE, np.bool_)
    corner[-9:, :9] = True
    messages = [frame(index, pixels=squares(index)) for index in range(7)]
    messages[0] = saying(frame(0, masked(5, corner), pixels=squares(0)), "blue", "red")
    answers = [live.ask(message).frame for message in messages]
    live.end()
    found = {
        answer.frame_index: ([(each.object_id, each.label) for each in answer.found.objects], answer.found.known)
        for answer in answers
        if answer.HasField("found")
    }
    assert found == {0: ([(4, "blue")], 0), 2: ([], 1), 4: ([(6, "red")], 1), 6: ([], 2)}
    followed = [[each.object_id for each in answer.objects] for answer in answers]
    assert followed == [[4, 5]] * 4 + [[4, 5, 6]] * 3


def test_objects_and_their_memory_are_bounded():
    """More objects than may be are refused, and more memory than there is; what was followed goes on."""
    with run_server(max_tracked_objects=2, max_tracking_bytes=400_000) as server, server.channel() as channel:
        live = Live(channel, held_frames=1)
        assert violations(live.ask(frame(0, boxed(1), boxed(2), boxed(3))).error) == ["frame.prompts"]
        memory = live.ask(frame(1, boxed(1))).frame.memory_bytes
        assert violations(live.ask(frame(2, boxed(2), boxed(3))).error) == ["frame.prompts"]
        others = [Live(channel, held_frames=1) for _ in range(400_000 // memory)]
        refused = [other.ask(frame(0, boxed(1))) for other in others]
        assert [each.error.code for each in refused if each.HasField("error")] == [8]
        assert live.ask(frame(3)).frame.objects[0].present
        for session in (live, *others):
            session.end()


def test_frames_are_kept_no_longer_than_they_are_held(server: RunningServer, stubs: Stubs, channel: grpc.Channel):
    """Their embeddings leave the cache, so that no video fills it; that of a picture stays, and is made once."""

    def cached() -> int:
        return server.app.status().devices[0].embeddings.bytes

    content = encode(picture(3), ".png")
    stubs.segmentation.SegmentByBox(segmentation_pb2.SegmentByBoxRequest(image={"content": content}, boxes=[BOX]))
    before = server.app.status().devices[0].embeddings
    live = Live(channel, held_frames=2)
    live.ask(frame(0, boxed(1)))
    one = cached() - before.bytes
    for index in range(1, 8):
        live.ask(frame(index))
    assert 0 < cached() - before.bytes <= 2 * one
    live.end()
    wait_until(lambda: cached() == before.bytes)
    assert server.app.status().devices[0].embeddings.misses - before.misses == 7


def test_a_server_that_stops_ends_its_sessions():
    """With UNAVAILABLE, which tells the caller to open another one and send its last masks as prompts."""
    with run_server() as server, server.channel() as channel:
        live = Live(channel)
        last = live.ask(frame(0, boxed(1))).frame
        server.stop()
        with pytest.raises(grpc.RpcError) as ended:
            next(live.answers)
        assert ended.value.code() is grpc.StatusCode.UNAVAILABLE
    with run_server() as server, server.channel() as channel:
        live = Live(channel)
        live.ask(frame(0, masked(1, decoded(last.objects[0]))))
        assert iou(decoded(live.ask(frame(1)).frame.objects[0]), truth(1)) > 0.6
        live.end()


def test_a_caller_that_vanishes_leaves_nothing(server: RunningServer):
    """Neither memory nor pixels nor slots."""
    with server.channel() as channel:
        live = Live(channel)
        live.ask(frame(0, boxed(1)))
        assert server.app.status().tracking.memory_bytes > 0
    wait_until(lambda: server.app.status().tracking.sessions == 0)
    status = server.app.status()
    assert (status.tracking.memory_bytes, status.tracking.objects) == (0, 0)
    assert all(device.requests == 0 for device in status.devices)
