"""Objects followed through stored videos: both ways, by words, over REST, to the end or not."""

# ruff: noqa: F811 - fixtures are imported

import errno
import json
import os
from collections.abc import Iterator
from functools import partial

import grpc
import httpx
import numpy as np
import pytest
from conftest import RunningServer, run_server
from cutout.v1 import tracking_service_pb2 as pb2
from cutout.v1 import tracking_service_pb2_grpc, video_service_pb2_grpc
from cutout.v1 import video_service_pb2 as videos_pb2
from cutout_server import parts
from cutout_server.imaging.video import VideoLimits
from test_service_tracking import SIZE, Live, boxed, decoded, frame, iou, masked, picture, squares, truth
from video_fixtures import COUNT, DATA, channel, pixels, stored  # noqa: F401
from videos import BACKWARD, BOTH, FORWARD, RATE, asked, frames, is_stored, refusal, tracked, upload, video
from waiting import PATIENCE_S, wait_until


def masks(found: list[pb2.TrackedFrame]) -> dict[int, dict[int, tuple[bytes, float]]]:
    """Each object's mask and presence, by frame."""
    return {
        each.frame_index: {
            o.object_id: (o.masks[0].rle.counts if o.masks else b"", o.presence, o.predicted_iou) for o in each.objects
        }
        for each in found
    }


def live_masks(
    channel: grpc.Channel, pixels: list[np.ndarray], numbers: list[int], prompts: dict[int, list[pb2.TrackPrompt]]
) -> dict[int, dict[int, tuple[bytes, float]]]:
    """The same by TrackObjects, which gets the frames in this order."""
    live = Live(channel, held_frames=1)
    found = {}
    for ordinal, number in enumerate(numbers):
        answer = live.ask(frame(ordinal, *prompts.get(number, ()), pixels=pixels[number])).frame
        found[number] = masks([answer])[ordinal]
    live.end()
    return found


def test_forward_is_what_the_live_session_answers(
    channel: grpc.Channel, stored: videos_pb2.Video, pixels: list[np.ndarray]
):
    """Mask for mask: every frame or every other one, objects that begin later, one that is said anew."""
    prompts = {1: [boxed(7, 1)], 4: [boxed(7, 4), masked(2, ~truth(4))]}
    said = [{"frame": number, "prompts": each} for number, each in prompts.items()]
    whole = frames(tracked(channel, asked(stored.video_id, *said)))
    assert [each.timestamp_seconds for each in whole] == pytest.approx([n / RATE for n in range(1, COUNT)])
    assert masks(whole) == live_masks(channel, pixels, list(range(1, COUNT)), prompts)
    assert all(iou(decoded(each.objects[-1]), truth(each.frame_index)) > 0.6 for each in whole)
    some = frames(tracked(channel, asked(stored.video_id, *said, every=2, end_frame=6)))
    assert masks(some) == live_masks(channel, pixels, [1, 2, 4], prompts)


def test_backward_is_what_the_live_session_answers_to_frames_in_that_order(
    channel: grpc.Channel, stored: videos_pb2.Video, pixels: list[np.ndarray]
):
    """From the last frame with prompts down to the start of the range."""
    request = asked(stored.video_id, {"frame": 5, "prompts": [boxed(7, 5)]}, direction=BACKWARD, start_frame=1)
    messages = tracked(channel, request)
    found = frames(messages)
    assert [each.frame_index for each in found] == [5, 4, 3, 2, 1]
    assert {message.direction for message in messages if message.HasField("frame")} == {BACKWARD}
    assert masks(found) == live_masks(channel, pixels, [5, 4, 3, 2, 1], {5: [boxed(7, 5)]})


def test_both_ways_show_each_object_once_in_each_frame(
    channel: grpc.Channel, stored: videos_pb2.Video, pixels: list[np.ndarray]
):
    """Forward from its first prompt, backward from there on."""
    said = {3: [boxed(7, 3)], 5: [boxed(8, 5), boxed(7, 5)]}
    request = asked(stored.video_id, *({"frame": n, "prompts": p} for n, p in said.items()), direction=BOTH)
    shown = [
        (message.direction, message.frame.frame_index, each.object_id)
        for message in tracked(channel, request)
        for each in message.frame.objects
    ]
    assert shown == [
        *((FORWARD, number, each) for number in (3, 4, 5, 6) for each in ((7,) if number < 5 else (7, 8))),
        *((BACKWARD, number, each) for number in (4, 3, 2, 1, 0) for each in ((8,) if number > 2 else (7, 8))),
    ]


def test_words_begin_objects_that_are_not_followed_yet(channel: grpc.Channel, stored: videos_pb2.Video):
    """With ids that no prompt has, on any frame; what is followed already, and what is too much, is counted."""
    looked = {"frame": 2, "phrases": ["object"]}
    messages = tracked(channel, asked(stored.video_id, looked, end_frame=4, box_threshold=0.1))
    (found,) = (message.found for message in messages if message.HasField("found"))
    assert (found.frame, found.known, found.too_many) == (2, 0, 0)
    assert [each.object_id for each in found.objects] == list(range(1, len(found.objects) + 1))
    assert {each.label for each in found.objects} == {"object"}
    first = frames(messages)[0]
    assert [each.object_id for each in first.objects] == [each.object_id for each in found.objects]
    known = masked(1, decoded(first.objects[0]))
    messages = tracked(
        channel, asked(stored.video_id, looked | {"prompts": [known]}, end_frame=4, box_threshold=0.1, direction=BOTH)
    )
    (again,) = (message.found for message in messages if message.HasField("found"))
    assert again.known == 1
    assert [each.object_id for each in again.objects] == [each.object_id + 1 for each in found.objects[:-1]]
    assert [each.frame_index for each in frames(messages)] == [2, 3, 1, 0]


@pytest.mark.parametrize("direction", [FORWARD, BACKWARD, BOTH])
def test_words_are_looked_for_again(channel: grpc.Channel, direction: int):
    """On the way, also in a frame that cannot be decoded: what is followed stays, what is new gets a new id."""
    data = bytearray(video(map(squares, range(COUNT)), container="avi", codec="mjpeg"))
    start = [at for at in range(data.index(b"movi"), len(data)) if data[at : at + 4] == b"00dc"][2] + 8
    data[start : start + 1000] = bytes(1000)
    first = COUNT - 1 if direction == BACKWARD else 0
    looked = {"frame": first, "phrases": ["blue", "red"]}
    asks = asked(upload(channel, bytes(data)).video_id, looked, every=5, phrases_every=2, direction=direction)
    messages = tracked(channel, asks)
    found = {
        message.found.frame: ([each.label for each in message.found.objects], message.found.known)
        for message in messages
        if message.HasField("found")
    }
    shown = [(each.frame_index, [o.object_id for o in each.objects if o.present]) for each in frames(messages)]
    assert list(messages[-1].summary.unreadable_frames) == [2]
    if direction == BACKWARD:
        assert [sorted(found[6][0]), *(found[number] for number in (4, 0))] == [["blue", "red"], ([], 2), ([], 1)]
        assert [number for number, _ in shown] == [6, 5, 4, 0]
        return
    assert found == {0: (["blue"], 0), 4: (["red"], 1), 6: ([], 2)}
    assert shown[:4] == [(0, [1]), (4, [1, 2]), (5, [1, 2]), (6, [1, 2])]
    assert [number for number, _ in shown[4:]] == ([0] if direction == BOTH else [])


def test_rest_follows_in_lines(gateway_url: str):
    """Upload by a body, description as JSON, tracking as NDJSON, deletion."""
    with httpx.Client(base_url=gateway_url, timeout=PATIENCE_S) as client:
        video_id = client.post("/v1/videos", content=DATA).raise_for_status().json()["video"]["videoId"]
        assert client.get(f"/v1/videos/{video_id}").json()["video"]["frameCount"] == COUNT
        body = {
            "prompts": [
                {"frame": 4, "prompts": [{"objectId": 7, "box": {"xMin": 28, "yMin": 28, "xMax": 68, "yMax": 68}}]}
            ]
        }
        answer = client.post(f"/v1/videos/{video_id}:track", json=body).raise_for_status()
        assert answer.headers["content-type"].startswith("application/x-ndjson")
        lines = [json.loads(line)["result"] for line in answer.text.splitlines()]
        assert [next(iter(set(line) & {"started", "frame", "summary"})) for line in lines] == [
            "started",
            "frame",
            "frame",
            "frame",
            "summary",
        ]
        assert [line["framesDone"] for line in lines[1:]] == [1, 2, 3, 3]
        assert client.delete(f"/v1/videos/{video_id}").json() == {}
        gone = client.get(f"/v1/videos/{video_id}")
        assert (gone.status_code, gone.json()["details"][0]["reason"]) == (404, "VIDEO_NOT_FOUND")


@pytest.mark.parametrize(
    ("request_of", "fields"),
    [
        ({"prompts": []}, ["prompts"]),
        ({"prompts": [{"frame": 1}]}, ["prompts[0]"]),
        ({"prompts": [{"frame": 1, "prompts": [boxed(1)]}] * 2}, ["prompts[1].frame"]),
        ({"prompts": [{"frame": COUNT, "prompts": [boxed(1)]}]}, ["prompts[0].frame"]),
        ({"prompts": [{"frame": 1, "prompts": [boxed(1), pb2.TrackPrompt(object_id=2)]}]}, ["prompts[0].prompts[1]"]),
        (
            {"prompts": [{"frame": 1, "prompts": [masked(1, np.ones((5, 5), np.bool_))]}]},
            ["prompts[0].prompts[0].mask"],
        ),
        ({"prompts": [{"frame": 1, "phrases": [" "]}]}, ["prompts[0].phrases[0]"]),
        ({"prompts": [{"frame": 1, "phrases": ["a wombat"]}]}, ["prompts[0].phrases[0]"]),
        ({"start_frame": 5, "end_frame": 5}, ["end_frame"]),
        ({"start_frame": COUNT}, ["start_frame", "prompts[0].frame"]),
        ({"end_frame": COUNT + 1}, ["end_frame"]),
        ({"direction": 9}, ["direction"]),
        ({"detector": "builtin"}, ["detector"]),
        ({"box_threshold": 0.0}, ["box_threshold"]),
        ({"box_threshold": 2, "prompts": [{"frame": 1, "phrases": ["face"]}]}, ["box_threshold"]),
        (
            {"direction": 9, "prompts": [{"frame": 1, "phrases": [" "]}, {"frame": 2, "phrases": [""]}]},
            ["prompts[0].phrases[0]", "prompts[1].phrases[0]", "direction"],
        ),
        ({"phrases_every": 3}, ["phrases_every"]),
        ({"tracker": "nobody"}, ["tracker"]),
        ({"options": {"mask_threshold": 99}}, ["options.mask_threshold"]),
        ({"video_id": ""}, ["video_id"]),
    ],
)
def test_what_cannot_be_followed_is_refused(
    channel: grpc.Channel, stored: videos_pb2.Video, request_of: dict[str, object], fields: list[str]
):
    """With every field, under the name that the caller knows."""
    defaults = {"video_id": stored.video_id, "prompts": [{"frame": 2, "prompts": [boxed(1)]}]}
    stub = tracking_service_pb2_grpc.TrackingServiceStub(channel)
    with pytest.raises(grpc.RpcError) as refused:
        list(stub.TrackVideo(pb2.TrackVideoRequest(**defaults | request_of)))
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert refusal(refused.value)[2] == fields


def test_deletion_and_leaving_in_the_middle(
    server: RunningServer, channel: grpc.Channel, monkeypatch: pytest.MonkeyPatch
):
    """What has begun reads a deleted video to its end, both ways; a caller that leaves takes its process along.

    Also on file systems without hard links. The file leaves with whoever reads it last.
    """
    monkeypatch.setattr(os, "link", refuse_links)
    stored = upload(channel, DATA)
    path = server.app.parts.store._files[stored.video_id].path
    stub = tracking_service_pb2_grpc.TrackingServiceStub(channel)
    request = asked(stored.video_id, {"frame": 0, "prompts": [boxed(7)]})
    whole = stub.TrackVideo(request)
    left = stub.TrackVideo(request)
    there_and_back = stub.TrackVideo(asked(stored.video_id, {"frame": 3, "prompts": [boxed(7, 3)]}, direction=BOTH))
    for call in (whole, left, there_and_back):
        assert next(call).HasField("started")
        assert next(call).HasField("frame")
    video_service_pb2_grpc.VideoServiceStub(channel).DeleteVideo(
        videos_pb2.DeleteVideoRequest(video_id=stored.video_id)
    )
    left.cancel()
    assert not is_stored(channel, stored.video_id)
    assert path.exists()
    for call, numbers in ((whole, range(1, COUNT)), (there_and_back, (4, 5, 6, 2, 1, 0))):
        assert [message.frame.frame_index for message in call if message.HasField("frame")] == list(numbers)
    wait_until(lambda: server.app.status().tracking.sessions == 0)
    assert server.app.status().tracking.memory_bytes == 0
    wait_until(lambda: not server.app.parts.video_decoders._working)
    wait_until(lambda: not path.exists())


def refuse_links(*paths: object) -> None:
    """As on FAT, and on many network file systems."""
    raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))


@pytest.mark.parametrize("direction", [BACKWARD, BOTH])
def test_a_way_back_that_takes_too_long_is_refused_at_once(few_held: grpc.Channel, direction: int):
    """Before the way forward, with what would do; a larger step is taken."""
    one_group = upload(few_held, video([picture(0)] * 34, group=1000))
    stub = tracking_service_pb2_grpc.TrackingServiceStub(few_held)
    asks = asked(one_group.video_id, {"frame": 33, "prompts": [boxed(7)]}, direction=direction)
    call = stub.TrackVideo(asks)
    assert next(call).HasField("started")
    with pytest.raises(grpc.RpcError) as refused:
        next(call)
    assert refusal(refused.value) == (grpc.StatusCode.INVALID_ARGUMENT, "VIDEO_TOO_FEW_KEYFRAMES", ["direction"])
    asks.every = 2
    call = stub.TrackVideo(asks)
    assert next(call).HasField("started")
    assert next(call).HasField("frame")
    call.cancel()


@pytest.fixture(scope="module")
def few_held() -> Iterator[grpc.Channel]:
    """A server that holds one decoded frame on the way back."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(parts, "VideoLimits", partial(VideoLimits, held_bytes=SIZE[0] * SIZE[1] * 3 // 2))
        with run_server() as server, server.channel() as channel:
            yield channel


def test_a_server_that_stops_says_so():
    """With UNAVAILABLE; the last masks begin the rest elsewhere."""
    with run_server(video_processes=1) as server, server.channel() as channel:
        call = tracking_service_pb2_grpc.TrackingServiceStub(channel).TrackVideo(
            asked(upload(channel, DATA).video_id, {"frame": 0, "prompts": [boxed(7)]})
        )
        next(call)
        server.stop()
        with pytest.raises(grpc.RpcError) as ended:
            list(call)
        assert refusal(ended.value)[:2] == (grpc.StatusCode.UNAVAILABLE, "DRAINING")
