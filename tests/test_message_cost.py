"""Messages of very many fields: refused before they are parsed, which would stop everything else for seconds."""

import grpc
import pytest
from conftest import RunningServer, Stubs
from cutout.v1 import image_service_pb2, tracking_service_pb2
from cutout.v1 import segmentation_service_pb2 as pb2
from cutout_common.status import unpack
from cutout_server import message_cost
from cutout_server.message_cost import MAX_FIELDS, has_too_many_fields
from google.protobuf.message import Message
from grpc_status import rpc_status
from hypothesis import given
from hypothesis import strategies as st
from waiting import PATIENCE_S

MIB = 1024 * 1024
PICTURE = pb2.SegmentByPointsRequest(image={"content": bytes(8 * MIB)})
# The fields of a point take 14 bytes at most.
LONGEST = pb2.SegmentByPointsRequest(prompts=[{"points": [{"x": 1, "y": 2, "label": 1}] * 256}] * 256)


def length_delimited(number: int, data: bytes) -> bytes:
    """A field of bytes, text or a message, shorter than 256 MiB."""
    size = bytes((len(data) >> shift & 0x7F) | 0x80 for shift in (0, 7, 14)) + bytes([len(data) >> 21])
    return bytes([number << 3 | 2]) + size + data


EMPTY = b"\x12\x00" * (MAX_FIELDS + 1)
COSTLY = {
    "empty messages": (pb2.SegmentByBoxRequest, EMPTY),
    "empty texts": (pb2.SegmentByTextRequest, EMPTY),
    "behind a picture": (pb2.SegmentByPointsRequest, PICTURE.SerializeToString() + EMPTY),
    "in a message": (pb2.SegmentSessionRequest, length_delimited(5, EMPTY)),
    "in messages in a message": (pb2.SegmentByPointsRequest, length_delimited(2, b"\x0a\x00" * 1000) * 132),
    "numbers": (pb2.SegmentByBoxRequest, b"\x78\x00" * (MAX_FIELDS + 1)),
    "numbers in a point": (pb2.SegmentByPointsRequest, length_delimited(2, length_delimited(1, EMPTY[1:] + b"\x12"))),
    "numbers in a list": (image_service_pb2.RenderOverlayRequest, length_delimited(4, bytes(2 * MIB))),
    "groups": (pb2.SegmentByBoxRequest, b"\x7b\x7c" * MAX_FIELDS),
}


@pytest.mark.parametrize(("kind", "data"), COSTLY.values(), ids=COSTLY)
def test_what_costs_too_much(kind: type[Message], data: bytes):
    """By many small fields at any depth, however many long ones are beside."""
    assert has_too_many_fields(data, kind.DESCRIPTOR)


@pytest.mark.parametrize(
    "message",
    [
        PICTURE,
        LONGEST,
        pb2.SegmentByPointsRequest(image=PICTURE.image, prompts=LONGEST.prompts),
        pb2.SegmentByPointsRequest(prompts=[{"logits": {"height": 256, "width": 256, "data": EMPTY[:262_144]}}] * 256),
        pb2.SegmentByTextRequest(phrases=["x" * MIB] * 9),
        image_service_pb2.UploadImageRequest(chunk={"data": EMPTY * 20}),
        tracking_service_pb2.TrackObjectsRequest(frame={"image": {"content": EMPTY * 20}}),
    ],
)
def test_what_does_not(message: Message):
    """However long it is: bytes and texts may look like anything."""
    assert not has_too_many_fields(message.SerializeToString(), type(message).DESCRIPTOR)


@pytest.mark.parametrize("data", [b"\x08" + b"\xff" * 9 * MIB, PICTURE.SerializeToString()[:-1] + b"\x12"])
def test_bytes_that_are_no_message(data: bytes):
    """They are left to the parser: a number that never ends takes no time."""
    assert not has_too_many_fields(data, pb2.SegmentByPointsRequest.DESCRIPTOR)


@given(
    st.builds(
        lambda counts, picture: pb2.SegmentByPointsRequest(
            image={"content": picture}, prompts=[{"points": [{"x": 1.5}] * points} for points in counts]
        ),
        st.lists(st.integers(0, 700), max_size=12),
        st.binary(max_size=300),
    )
)
def test_the_count_is_that_of_the_fields(message: pb2.SegmentByPointsRequest):
    """As counted in the message that was made; a short one's points are one each, whatever is in them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(message_cost, "_CHEAP_BYTES", 0)
        data = message.SerializeToString()
        fields = 2 + len(message.prompts) + sum(len(prompt.points) for prompt in message.prompts)
        patch.setattr(message_cost, "MAX_FIELDS", fields)
        assert not has_too_many_fields(data, message.DESCRIPTOR)
        patch.setattr(message_cost, "MAX_FIELDS", fields - 1)
        assert has_too_many_fields(data, message.DESCRIPTOR)


@pytest.mark.parametrize("kind", ["SegmentByBox", "StreamSegmentation", "SegmentSession"])
def test_it_is_refused_before_it_is_parsed(server: RunningServer, kind: str):
    """By methods of every kind, with what is allowed."""
    number = {"StreamSegmentation": 1, "SegmentSession": 3}.get(kind)
    data = length_delimited(number, EMPTY) if number else EMPTY
    with server.channel() as channel, pytest.raises(grpc.RpcError) as refused:
        list(channel.stream_stream(f"/cutout.v1.SegmentationService/{kind}")(iter([data]), timeout=PATIENCE_S))
    details = unpack(rpc_status.from_call(refused.value))
    assert (refused.value.code(), details.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "TOO_LARGE")
    assert "131,072 fields" in refused.value.details()


def test_the_longest_requests_are_read(stubs: Stubs):
    """What is wrong with them is told by field, not by their size."""
    with pytest.raises(grpc.RpcError) as refused:
        stubs.segmentation.SegmentByPoints(LONGEST)
    (violation,) = unpack(rpc_status.from_call(refused.value)).violations
    assert violation.field == "image"
