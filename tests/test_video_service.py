"""Stored videos through the real stack: uploaded, described, shown, bounded, forgotten."""

# ruff: noqa: F811 - fixtures are imported

import random
import struct

import grpc
import numpy as np
import pytest
from conftest import encode, run_server
from cutout.v1 import mask_pb2, segmentation_service_pb2_grpc, video_service_pb2_grpc
from cutout.v1 import segmentation_service_pb2 as segment_pb2
from cutout.v1 import video_service_pb2 as videos_pb2
from cutout_server.images import videos as videos_module
from lying_videos import with_boxes, with_elements
from test_service_tracking import SIZE, boxed, picture
from video_fixtures import COUNT, DATA, channel, pixels, stored  # noqa: F401
from videos import BACKWARD, RATE, asked, is_stored, refusal, tracked, upload, video
from waiting import wait_until

KEYS = ({"caller": "one", "key": "key-of-one-12345"}, {"caller": "other", "key": "key-of-other-1234"})


def test_a_stored_video_is_described(channel: grpc.Channel, stored: videos_pb2.Video):
    """By its upload and ever after."""
    assert (stored.width, stored.height, stored.frame_count, stored.missing_frames) == (*SIZE[::-1], COUNT, 0)
    assert (stored.codec, stored.content_type, stored.size_bytes) == ("h264", "video/mp4", len(DATA))
    assert (stored.frame_rate, stored.duration_seconds) == pytest.approx((RATE, COUNT / RATE))
    stub = video_service_pb2_grpc.VideoServiceStub(channel)
    again = stub.GetVideo(videos_pb2.GetVideoRequest(video_id=stored.video_id)).video
    assert again.expire_time.ToDatetime() >= stored.expire_time.ToDatetime()
    again.expire_time.CopyFrom(stored.expire_time)
    assert again == stored
    for wrong in ({"expected_sha256": "0" * 64}, {"expected_sha256": stored.sha256.upper()}):
        if wrong["expected_sha256"].lower() == stored.sha256:
            assert upload(channel, DATA, **wrong).sha256 == stored.sha256
        else:
            with pytest.raises(grpc.RpcError) as refused:
                upload(channel, DATA, **wrong)
            assert refusal(refused.value)[2] == ["expected_sha256"]


def test_a_frame_is_a_picture(channel: grpc.Channel, stored: videos_pb2.Video, pixels: list[np.ndarray]):
    """For every request that takes one: the answer is the one to the same pixels in a file."""
    stub = segmentation_service_pb2_grpc.SegmentationServiceStub(channel)
    box = mask_pb2.Box(x_min=25, y_min=26, x_max=65, y_max=66)

    def answer(**image: object) -> segment_pb2.SegmentByBoxResponse:
        found = stub.SegmentByBox(segment_pb2.SegmentByBoxRequest(image=image, boxes=[box])).segmentation
        found.ClearField("timings")
        return found

    shown = answer(video_frame={"video_id": stored.video_id, "frame": 3})
    assert shown == answer(content=encode(pixels[3], ".png"))
    assert shown.objects
    for wrong, expected in (
        ({"video_id": stored.video_id, "frame": COUNT}, ["image.video_frame.frame"]),
        ({"video_id": "vid_that_is_not_there"}, []),
    ):
        with pytest.raises(grpc.RpcError) as refused:
            answer(video_frame=wrong)
        assert refusal(refused.value)[2] == expected


def test_videos_are_their_owners_and_take_room(channel: grpc.Channel):
    """Another key sees nothing of one; quotas, room, limits and expiry are those of pictures."""
    limits = {"max_video_frames": COUNT, "max_video_bytes": len(DATA) + 1000}
    keys = [KEYS[0], KEYS[1] | {"quotas": {"stored_bytes": len(DATA) - 1}}]
    with run_server(api_keys=keys, **limits) as server, server.channel() as plain:
        one, other = (grpc.intercept_channel(plain, WithKey(key["key"])) for key in KEYS)
        mine = upload(one, DATA)
        assert server.app.status().stored_bytes == len(DATA)
        with pytest.raises(grpc.RpcError) as refused:
            video_service_pb2_grpc.VideoServiceStub(other).GetVideo(videos_pb2.GetVideoRequest(video_id=mine.video_id))
        assert refusal(refused.value)[:2] == (grpc.StatusCode.NOT_FOUND, "VIDEO_NOT_FOUND")
        with pytest.raises(grpc.RpcError) as refused:
            tracked(other, asked(mine.video_id, {"frame": 0, "prompts": [boxed(1)]}))
        assert refusal(refused.value)[:2] == (grpc.StatusCode.NOT_FOUND, "VIDEO_NOT_FOUND")
        with pytest.raises(grpc.RpcError) as refused:
            upload(other, DATA)
        assert refusal(refused.value)[:2] == (grpc.StatusCode.RESOURCE_EXHAUSTED, "QUOTA_EXCEEDED")
        with pytest.raises(grpc.RpcError) as refused:
            upload(one, DATA + bytes(1001))
        assert refusal(refused.value)[:2] == (grpc.StatusCode.RESOURCE_EXHAUSTED, "UPLOAD_TOO_LARGE")
        with pytest.raises(grpc.RpcError) as refused:
            upload(one, video([picture(0)] * (COUNT + 1)))
        assert refusal(refused.value) == (grpc.StatusCode.INVALID_ARGUMENT, "VIDEO_TOO_LARGE", ["chunk.data"])
    with run_server(image_store_ttl_s=1.0) as server, server.channel() as plain:
        upload(plain, DATA)
        wait_until(lambda: server.app.status().stored_bytes == 0)


def test_the_same_file_is_stored_as_often_as_it_comes():
    """Under ids of their own, each counted; one more than the caller may have takes the place of the oldest."""
    keys = [KEYS[0] | {"quotas": {"stored_images": 2}}, KEYS[1]]
    with run_server(api_keys=keys) as server, server.channel() as plain:
        one, other = (grpc.intercept_channel(plain, WithKey(key["key"])) for key in KEYS)
        theirs, first, second = upload(other, DATA), upload(one, DATA), upload(one, DATA)
        assert first.video_id != second.video_id
        assert (first.sha256, server.app.status().stored_bytes) == (second.sha256, 3 * len(DATA))
        video_service_pb2_grpc.VideoServiceStub(one).DeleteVideo(
            videos_pb2.DeleteVideoRequest(video_id=second.video_id)
        )
        third, fourth = upload(one, DATA), upload(one, DATA)
        assert server.app.status().stored_bytes == 3 * len(DATA)
        for channel, video_id, is_there in (
            (one, first.video_id, False),
            (one, second.video_id, False),
            (one, third.video_id, True),
            (one, fourth.video_id, True),
            (other, theirs.video_id, True),
        ):
            assert is_stored(channel, video_id) is is_there


class WithKey(grpc.UnaryUnaryClientInterceptor, grpc.UnaryStreamClientInterceptor, grpc.StreamUnaryClientInterceptor):
    """Sends an API key along."""

    def __init__(self, key: str) -> None:
        self._metadata = (("authorization", f"Bearer {key}"),)

    def _call(self, go_on: object, details: grpc.ClientCallDetails, request: object) -> object:
        return go_on(details._replace(metadata=self._metadata), request)

    intercept_unary_unary = intercept_unary_stream = intercept_stream_unary = _call


def test_a_server_without_pyav_says_what_to_install(channel: grpc.Channel, monkeypatch: pytest.MonkeyPatch):
    """Before it takes a file in."""
    monkeypatch.setattr(videos_module, "is_readable", lambda: False)
    with pytest.raises(grpc.RpcError) as refused:
        upload(channel, DATA)
    assert refusal(refused.value)[:2] == (grpc.StatusCode.FAILED_PRECONDITION, "PACKAGE_MISSING")
    assert "[pyav]" in refused.value.details()


def test_hostile_files_are_refused_or_read(channel: grpc.Channel):
    """Cut, overwritten, with bytes put in or left out: no crash, no hang, nothing internal."""
    chance = random.Random(7)  # noqa: S311 - no secret
    small = [picture(0)[:48, :64], picture(1)[:48, :64], picture(2)[:48, :64]]
    whole = [
        video(small),
        video(small, movflags="frag_keyframe+empty_moov"),
        video(small, container="matroska", codec="libx265"),
        video(small, container="webm", codec="libvpx-vp9"),
        video(small, container="avi", codec="mpeg4"),
        video(small, container="mp4", codec="libsvtav1"),
    ]
    kept = 0
    for number in range(36):
        data = bytearray(whole[number % len(whole)])
        for _ in range(chance.randint(1, 6)):
            at, size = chance.randrange(len(data)), chance.choice([1, 4, 40])
            data[at : at + size] = chance.choice(
                [b"", chance.randbytes(size), b"\xff" * size, bytes(size), bytes(data[:99])]
            )
        stored = _tried(lambda data=data: upload(channel, bytes(data)))
        if stored is not None:
            kept += 1
            last = stored.frame_count - 1
            request = asked(stored.video_id, {"frame": last, "phrases": ["red"]}, direction=BACKWARD)
            _tried(lambda request=request: tracked(channel, request))
    assert kept > 10


def test_more_missing_frames_than_can_be_told(channel: grpc.Channel):
    """A header may promise any number: the greatest that the contract has is told."""
    whole = video([picture(0)[:48, :64]] * 3, container="matroska")
    # Two hours, of frames that last a nanosecond.
    stored = upload(channel, with_elements(whole, {"2AD7B1": 1, "23E383": 1, "4489": 7e12}))
    assert (stored.frame_count, stored.missing_frames) == (3, 2**32 - 1)


def test_a_file_that_asks_for_gigabytes_is_refused(channel: grpc.Channel):
    """A fragment of a few bytes that promises a hundred million frames is not made room for; the next file is read."""
    small = [picture(0)[:48, :64]] * 2
    fragmented = video(small, movflags="frag_keyframe+empty_moov")
    with pytest.raises(grpc.RpcError) as refused:
        upload(channel, with_boxes(fragmented, {b"trun": struct.pack(">IIi", 1, 100_000_000, 100)}))
    assert refusal(refused.value) == (grpc.StatusCode.INVALID_ARGUMENT, "VIDEO_TOO_COSTLY", ["chunk.data"])
    assert "MiB of memory" in refused.value.details()
    assert upload(channel, fragmented).frame_count == 2


def _tried(call: object) -> object:
    """What a call answers; None when it refuses in a way that blames the file."""
    try:
        return call()
    except grpc.RpcError as error:
        assert error.code() is grpc.StatusCode.INVALID_ARGUMENT, error  # noqa: PT017
        return None
