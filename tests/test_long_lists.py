"""Requests with far longer lists than are allowed: refused by their length, before anything is done for each entry."""

import threading
from collections.abc import Iterator

import grpc
import numpy as np
import pytest
from conftest import RunningServer, Stubs
from cutout.v1 import image_service_pb2, tracking_service_pb2_grpc
from cutout.v1 import segmentation_service_pb2 as segment_pb2
from cutout.v1 import tracking_service_pb2 as pb2
from cutout_common import masks as codec
from cutout_common.status import FieldViolation, unpack
from cutout_server.imaging import masks
from cutout_server.pipelines.said import Said
from cutout_server.types import (
    Direction,
    DropPolicy,
    Options,
    TextRequest,
    TrackingRequest,
    VideoPrompt,
    VideoTrackRequest,
)
from grpc_status import rpc_status
from test_service_tracking import SIZE, Live, boxed, frame, masked, saying, squares, truth

MANY = 100_000
NAN = {"x": float("nan"), "y": 5.0, "label": 9}


@pytest.fixture(scope="module")
def channel(server: RunningServer) -> Iterator[grpc.Channel]:
    with server.channel([("grpc.max_receive_message_length", -1)]) as opened:
        yield opened


@pytest.mark.parametrize(
    ("message", "field", "said"),
    [
        ({"remove": {"object_ids": range(MANY)}}, "remove.object_ids", f"got {MANY}"),
        ({"remove": {"object_ids": [1] * MANY}}, "remove.object_ids", f"got {MANY}"),
        (
            {"correct": {"frame_index": 0, "prompts": [{"mask": {"size": [1] * MANY}}]}},
            "correct.prompts[0].mask.size",
            f"got {MANY} numbers",
        ),
        (
            {"correct": {"frame_index": 0, "prompts": [{"mask": {"size": SIZE, "counts": "1" * (2**20 + 1)}}]}},
            "correct.prompts[0].mask.counts",
            f"got {2**20 + 1}",
        ),
        ({"frame": saying(frame(1), *["x"] * MANY).frame}, "frame.phrases", f"got {MANY}"),
    ],
)
def test_a_live_session_counts_first(channel: grpc.Channel, message: dict[str, object], field: str, said: str):
    """One violation says how many there are; the session goes on."""
    live = Live(channel)
    live.ask(frame(0, boxed(1)))
    details = unpack(live.ask(pb2.TrackObjectsRequest(**message)).error)
    assert [violation.field for violation in details.violations if said in violation.description] == [field]
    assert len(details.violations) == 1
    assert live.ask(frame(9)).frame.objects
    live.end()


@pytest.mark.parametrize(
    ("method", "request_of", "fields"),
    [
        ("SegmentByText", segment_pb2.SegmentByTextRequest(phrases=[""] * MANY), "phrases"),
        ("SegmentByText", segment_pb2.SegmentByTextRequest(phrases=["a . " * MANY]), "phrases[0]"),
        ("AnalyzeImage", segment_pb2.AnalyzeImageRequest(concepts=[""] * MANY), "concepts"),
        ("RenderOverlay", image_service_pb2.RenderOverlayRequest(image_id="x", phrases=[""] * MANY), "phrases"),
        ("RenderOverlay", image_service_pb2.RenderOverlayRequest(image_id="x", boxes=[1] * MANY), "boxes"),
        ("RenderOverlay", image_service_pb2.RenderOverlayRequest(image_id="x", points=[1] * MANY), "points"),
    ],
)
def test_calls_count_first(stubs: Stubs, method: str, request_of: object, fields: str):
    """No more entries are looked at than there may be."""
    stub = stubs.images if method == "RenderOverlay" else stubs.segmentation
    with pytest.raises(grpc.RpcError) as refused:
        getattr(stub, method)(request_of)
    details = unpack(rpc_status.from_call(refused.value))
    assert fields in refused.value.details() or fields in [violation.field for violation in details.violations]
    assert len(details.violations) + details.omitted_violations <= 300


def test_a_stored_video_takes_so_many_points(channel: grpc.Channel):
    """In all prompts together: they are held for as long as the video is followed."""
    prompts = [{"object_id": number, "points": [NAN] * 256} for number in range(64)]
    request = pb2.TrackVideoRequest(video_id="x", prompts=[{"frame": n, "prompts": prompts} for n in range(5)])
    with pytest.raises(grpc.RpcError) as refused:
        list(tracking_service_pb2_grpc.TrackingServiceStub(channel).TrackVideo(request))
    (violation,) = unpack(rpc_status.from_call(refused.value)).violations
    assert violation == FieldViolation("prompts", f"expected at most 65536 points in all, got {5 * 64 * 256}")


def test_of_very_many_violations_some_are_named_and_all_counted(stubs: Stubs):
    """So a request that is wrong everywhere takes little memory."""
    request = segment_pb2.SegmentByPointsRequest(prompts=[{"points": [NAN] * 256}] * 256)
    with pytest.raises(grpc.RpcError) as refused:
        stubs.segmentation.SegmentByPoints(request)
    details = unpack(rpc_status.from_call(refused.value))
    # A number and a label in each point, and the picture.
    assert len(details.violations) + details.omitted_violations == 2 * 256 * 256 + 1
    assert details.violations[0].field == "prompts[0].points[0].x"


def test_masks_are_read_and_compared_off_the_event_loop(channel: grpc.Channel, monkeypatch: pytest.MonkeyPatch):
    """Those of prompts, and what words find beside what is followed: both may take seconds."""
    ran: set[tuple[str, bool]] = set()

    def noted(function: object) -> object:
        def note(*args: object) -> object:
            ran.add((function.__name__, threading.current_thread().name.startswith("server-loop")))
            return function(*args)

        return note

    live = Live(channel)
    monkeypatch.setattr(masks, "area", noted(masks.area))
    monkeypatch.setattr(codec, "rle_iou", noted(codec.rle_iou))
    live.ask(saying(frame(0, masked(1, truth(0)), pixels=squares(0)), "blue"))
    live.ask(pb2.TrackObjectsRequest(correct={"frame_index": 0, "prompts": [masked(1, truth(0))]}))
    live.end()
    assert ran == {("area", False), ("rle_iou", False)}


def test_what_is_looked_for_again_is_made_when_it_is_asked_for():
    """A long video's frames, of which each may be one of them, are not gone through before."""
    looked = TextRequest(image=None, segmenter="", phrases=("x",))
    tracking = TrackingRequest("", Options(), non_overlapping=False, drop_policy=DropPolicy.WAIT, held_frames=1)
    prompts = (VideoPrompt(3, {}, looked), VideoPrompt(7, {1: np.ones(1)}, None))
    request = VideoTrackRequest("x", tracking, prompts, Direction.FORWARD, 0, None, 1, phrases_every=2)
    said = Said(request, 10**12)
    assert said.last_beginning() == 10**12 - 1
    assert said[7] == (1, VideoPrompt(7, prompts[1].prompts, looked, phrases_again=True))
    assert said[10**9 + 1] == (0, VideoPrompt(10**9 + 1, {}, looked, phrases_again=True))
    assert 10**9 not in said
    assert 2 not in said
    assert sorted(Said(request, 8)) == [3, 5, 7]
