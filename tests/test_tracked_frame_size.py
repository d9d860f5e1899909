"""What one frame takes while its objects' masks are made: never all of them at the frame's size."""

import tracemalloc
from collections.abc import Iterator

import grpc
import numpy as np
import pytest
from conftest import run_server
from cutout.v1 import mask_pb2
from cutout.v1 import tracking_service_pb2 as pb2
from cutout_common.status import unpack
from cutout_server.imaging import masks
from cutout_server.models.exclusive import exclusive
from test_service_tracking import Live, frame

SIDE, OBJECTS = 1024, 24
BITS_BYTES = SIDE * SIDE // 8
LIMIT = 2 << 20


@pytest.fixture(scope="module")
def channel() -> Iterator[grpc.Channel]:
    """A server whose messages have room for 15 of these masks."""
    with run_server(max_message_bytes=LIMIT) as server, server.channel() as opened:
        yield opened


def test_an_answer_that_has_no_room_is_given_up_on_the_way(channel: grpc.Channel, monkeypatch: pytest.MonkeyPatch):
    """With what would help; the frame is as if it had not come, and the session goes on."""
    made: list[int] = []
    encode = masks.encode
    monkeypatch.setattr(masks, "encode", lambda *given: made.append(1) or encode(*given))
    pixels = np.zeros((SIDE, SIDE, 3), np.uint8)
    pixels[100:900, 100:900] = 200
    box = {"x_min": 100, "y_min": 100, "x_max": 900, "y_max": 900}
    prompts = [pb2.TrackPrompt(object_id=number, box=box) for number in range(OBJECTS)]
    live = Live(channel, options={"mask_formats": [mask_pb2.MASK_FORMAT_BITS]})
    refused = live.ask(frame(0, *prompts, pixels=pixels)).error
    assert unpack(refused).reason == "ANSWER_TOO_LARGE"
    assert "fewer objects" in refused.message
    assert len(made) == LIMIT // BITS_BYTES + 1 < OBJECTS
    answer = live.ask(frame(1, *prompts[:2], pixels=pixels)).frame
    assert [len(each.masks[0].bits.data) for each in answer.objects] == [BITS_BYTES] * 2
    live.end()


def test_masks_that_share_no_pixel_are_kept_as_run_lengths():
    """Though each of them goes from one corner of the frame to the other."""
    side, objects = 1000, 32

    def logits() -> Iterator[np.ndarray]:
        for index in range(objects):
            values = np.full((side, side), -1, np.float32)
            values[index, index] = values[-1 - index, -1 - index] = 1
            yield values

    tracemalloc.start()
    try:
        found = exclusive(logits(), [0.0] * objects)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert [masks.area(mask) for mask in found] == [2] * objects
    assert peak < 25 * side * side  # Of float32 two to three objects, and whose each pixel is.
