"""Words in video that cannot be looked for, or whose objects have no room, take nothing from what is followed."""

import asyncio
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from math import inf
from pathlib import Path
from types import SimpleNamespace

import grpc
import httpx
import numpy as np
import pytest
from conftest import RunningServer, run_server
from cutout.v1 import tracking_service_pb2 as pb2
from cutout_client import (
    AsyncClient,
    Client,
    FailedPreconditionError,
    Frame,
    OverloadedError,
    TrackedFrame,
    TrackPrompt,
)
from cutout_client.cli import main
from cutout_client.video import VideoWriter
from cutout_common.masks import rle_encode
from cutout_common.status import unpack
from cutout_gateway.settings import GatewaySettings
from cutout_server import call_context, errors, types
from cutout_server.models.builtin.model import Builtin
from cutout_server.models.family import Family
from cutout_server.models.queries import Detection, DetectQuery
from cutout_server.models.registry import FAMILIES
from cutout_server.pipelines.finding import Finder, Finds
from cutout_server.types import Task
from gateway_fixtures import GatewayThread
from test_service_tracking import SIZE, Live, frame, masked, saying, squares
from videos import asked, frames, tracked, upload, video
from waiting import PATIENCE_S

MEMORY = errors.FailedPreconditionError("device cpu has too little free memory for the model")


CORNER = np.zeros(SIZE, np.bool_)
CORNER[-9:, :9] = True


class Fickle(Builtin):
    """A detector that answers so many times as `left` says, and then fails by `why`."""

    left: float = inf
    why: Exception = MEMORY
    asked: int = 0

    def detect(self, queries: list[DetectQuery]) -> list[list[Detection]]:
        """As the built-in model does, as long as it does."""
        self.asked += 1
        if self.left <= 0:
            raise self.why
        self.left -= 1
        return super().detect(queries)


@dataclass(frozen=True)
class Short:
    """A server whose memory holds two objects and a half."""

    server: RunningServer
    channel: grpc.Channel
    fickle: Fickle
    limit: int


def corner(number: int) -> pb2.TrackPrompt:
    return masked(number, CORNER)


def kept_for_one(server: RunningServer, **options: object) -> int:
    """Bytes of the room that is kept for an object."""
    with server.channel() as channel:
        live = Live(channel, **options)
        live.ask(frame(0, corner(5), pixels=squares(0)))
        reserved = server.app.status().tracking.reserved_bytes
        live.end()
    return reserved


@pytest.fixture(scope="module")
def made(server: RunningServer) -> Iterator[Short]:
    fickle = Fickle()
    models = [{"name": name, "family": name} for name in ("builtin", "fickle")]
    with pytest.MonkeyPatch.context() as patch:
        family = Family("fickle", frozenset({Task.DETECT}), lambda *_: fickle, needs_checkpoint=False)
        patch.setitem(FAMILIES, "fickle", family)
        limit = kept_for_one(server, held_frames=1) * 5 // 2
        with run_server(models=models, max_tracking_bytes=limit) as short, short.channel() as channel:
            yield Short(short, channel, fickle, limit)


@pytest.fixture
def short(made: Short) -> Short:
    made.fickle.left, made.fickle.why, made.fickle.asked = inf, MEMORY, 0
    return made


def played(path: Path, numbers: Iterable[int]) -> str:
    """A file of such frames."""
    with VideoWriter(path) as writer:
        for number in numbers:
            writer.write(squares(number))
    return str(path)


def begun(found: pb2.FoundObjects) -> list[int]:
    return [each.object_id for each in found.objects]


def ids(answer: pb2.TrackedFrame) -> list[int]:
    return [each.object_id for each in answer.objects]


def test_what_there_is_no_memory_for_is_counted_and_the_frame_answered(short: Short):
    """With as many objects as there is memory for, and why not all; the others begin once there is room."""
    live = Live(short.channel, held_frames=1, phrases_every=2)
    first = live.ask(saying(frame(3, corner(5), pixels=squares(3)), "blue", "red")).frame
    assert (begun(first.found), first.found.not_begun, first.found.too_many) == ([1], 1, 0)
    assert unpack(first.found.error).reason == "TRACKING_MEMORY"
    assert ids(first) == [1, 5]
    between = live.ask(frame(4, pixels=squares(4))).frame
    assert (ids(between), between.HasField("found")) == ([1, 5], False)
    again = live.ask(frame(5, pixels=squares(5))).frame
    assert (ids(again), again.found.known, again.found.not_begun) == ([1, 5], 1, 1)
    live.ask(pb2.TrackObjectsRequest(remove={"object_ids": [5]}))
    live.ask(frame(6, pixels=squares(6)))
    last = live.ask(frame(7, pixels=squares(7))).frame
    assert (begun(last.found), last.found.known, last.found.not_begun) == ([2], 1, 0)
    assert not last.found.HasField("error")
    live.end()


def test_no_more_begins_than_there_will_be_memory_for(short: Short):
    """What is remembered of an object grows for some frames: none of them is refused for that."""
    live = Live(short.channel, held_frames=2)
    first = live.ask(saying(frame(3, pixels=squares(3)), "blue", "red")).frame
    assert (begun(first.found), first.found.not_begun) == ([1], 1)
    assert first.memory_bytes * 2 < short.limit
    followed = [live.ask(frame(index, pixels=squares(index % 8))).frame for index in range(4, 12)]
    assert [ids(each) for each in followed] == [[1]] * len(followed)
    assert first.memory_bytes < followed[-1].memory_bytes < short.limit
    live.end()


async def test_what_began_in_a_frame_that_nobody_heard_of_keeps_its_id():
    """As when a frame's deadline passes while words begin in it: the next find gets another id, not that one anew."""

    class Follows:
        async def correct(self, request: types.CorrectionRequest) -> types.TrackedFrame:
            return types.TrackedFrame(request.index, None, tuple(map(unheard, request.prompts)), corrected=True)

    def unheard(number: int) -> types.TrackedObject:
        return types.TrackedObject(number, present=True, presence=1.0, predicted_iou=1.0)

    call_context.begin(call_context.Call("id", "caller", inf))
    answered = types.TrackedFrame(0, None, (unheard(1),), corrected=False)
    finds = Finds([("corner", 0.9, types.Rle(*SIZE, rle_encode(CORNER)))])
    frame_with_it, told, _ = await Finder(SimpleNamespace(), max_objects=9).begin(Follows(), finds, answered)
    assert [each.object_id for each in told.objects] == [2]
    assert [each.object_id for each in frame_with_it.objects] == [1, 2]


def test_stored_videos_are_followed_on_by_what_has_room(short: Short):
    """As live ones are."""
    stored = upload(short.channel, video(map(squares, range(3, 8))))
    request = asked(stored.video_id, {"frame": 0, "prompts": [corner(5)], "phrases": ["blue", "red"]})
    messages = tracked(short.channel, request)
    (found,) = (message.found for message in messages if message.HasField("found"))
    assert (begun(found), found.not_begun, unpack(found.error).reason) == ([1], 1, "TRACKING_MEMORY")
    assert [ids(each) for each in frames(messages)] == [[1, 5]] * 5


@pytest.mark.parametrize(
    ("why", "code"),
    [(MEMORY, grpc.StatusCode.FAILED_PRECONDITION), (RuntimeError("out of memory"), grpc.StatusCode.INTERNAL)],
)
def test_words_that_are_due_and_cannot_be_looked_for_refuse_no_frame(
    short: Short, why: Exception, code: grpc.StatusCode
):
    """The answer says why, and they are tried again when they are due again, not in each frame."""
    live = Live(short.channel, held_frames=1, phrases_every=2, detector="fickle")
    short.fickle.left, short.fickle.why = 1, why
    answers = [live.ask(saying(frame(0, pixels=squares(0)), "blue", "red")).frame]
    answers += [live.ask(frame(index, pixels=squares(index))).frame for index in range(1, 5)]
    assert [ids(answer) for answer in answers] == [[1]] * 5
    assert [answer.HasField("found") for answer in answers] == [True, False] * 2 + [True]
    assert [answer.found.error.code for answer in answers] == [0, 0, code.value[0], 0, code.value[0]]
    assert short.fickle.asked == 3
    short.fickle.left = inf
    answers = [live.ask(frame(index, pixels=squares(index))).frame for index in (5, 6)]
    assert [begun(answer.found) for answer in answers] == [[], [2]]
    assert not answers[-1].found.HasField("error")
    live.end()


def test_stored_videos_are_followed_on_though_words_cannot_be_looked_for_again(short: Short):
    """As live ones are."""
    short.fickle.left = 1
    stored = upload(short.channel, video(map(squares, range(5))))
    looked = {"frame": 0, "phrases": ["blue", "red"]}
    messages = tracked(short.channel, asked(stored.video_id, looked, detector="fickle", phrases_every=2))
    found = {message.found.frame: message.found for message in messages if message.HasField("found")}
    assert [begun(each) for each in found.values()] == [[1], [], []]
    assert [unpack(found[number].error).reason for number in (2, 4)] == ["FAILED_PRECONDITION"] * 2
    assert [ids(each) for each in frames(messages)] == [[1]] * 5


def test_rest_says_why_words_were_not_looked_for_again(short: Short):
    """As an error of its own is said, in the line of what was found."""
    stored = upload(short.channel, video(map(squares, range(3))))
    short.fickle.left = 1
    body = {"prompts": [{"frame": 0, "phrases": ["blue"]}], "detector": "fickle", "phrasesEvery": 2}
    with GatewayThread(GatewaySettings(server_address=short.server.address)) as gateway:
        answer = httpx.post(f"{gateway.url}/v1/videos/{stored.video_id}:track", json=body, timeout=PATIENCE_S)
    lines = [json.loads(line)["result"] for line in answer.raise_for_status().text.splitlines()]
    first, again = (line["found"] for line in lines if "found" in line)
    assert [each["label"] for each in first["objects"]] == ["blue"]
    assert (again["error"]["code"], again["error"]["details"][0]["reason"]) == (9, "FAILED_PRECONDITION")


def test_words_that_a_frame_names_refuse_it_unless_they_are_optional(short: Short):
    """Then they are due from there on as if they had been looked for."""
    live = Live(short.channel, held_frames=1, phrases_every=2, detector="fickle")
    short.fickle.left = 0
    refused = live.ask(saying(frame(0, corner(5), pixels=squares(0)), "blue"))
    assert refused.error.code == grpc.StatusCode.FAILED_PRECONDITION.value[0]
    optional = saying(frame(1, corner(5), pixels=squares(1)), "blue")
    optional.frame.phrases_optional = True
    answered = live.ask(optional).frame
    assert (ids(answered), answered.found.error.code) == ([5], grpc.StatusCode.FAILED_PRECONDITION.value[0])
    short.fickle.left = inf
    answers = [live.ask(frame(index, pixels=squares(index))).frame for index in (2, 3)]
    assert [begun(answer.found) for answer in answers] == [[], [1]]
    live.end()


def test_both_clients_say_what_words_found_and_why_not_all_of_it_is_followed(short: Short):
    """With each frame in which they were to be looked for."""
    first = [Frame(squares(3), {5: TrackPrompt(mask=CORNER)}), squares(4)]
    address = short.server.address

    async def followed() -> list[TrackedFrame]:
        async with AsyncClient(address) as client:
            return [each async for each in client.live(first, phrases=["blue", "red"], held_frames=1)]

    with Client(address) as client:
        for answers in (list(client.live(first, phrases=["blue", "red"], held_frames=1)), asyncio.run(followed())):
            (found, nothing) = (answer.found for answer in answers)
            assert nothing is None
            assert [each.object_id for each in found.objects] == [1]
            assert {each.label for each in found.objects} < {"blue", "red"}
            assert (found.known, found.too_many, found.not_begun) == (0, 0, 1)
            assert isinstance(found.error, OverloadedError)
            assert (found.error.reason, bool(found.error.request_id)) == ("TRACKING_MEMORY", True)
        stored = client.upload_video(video(map(squares, range(3))))
        short.fickle.left = 1
        told = list(client.track_video(stored, phrases={0: "blue"}, phrases_every=2, detector="fickle"))
        assert [each.found and type(each.found.error) for each in told] == [type(None), None, FailedPreconditionError]
        assert [each.object_id for each in told[0].found.objects] == [1]


def test_the_command_says_at_the_end_what_was_not_followed(
    server: RunningServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    """In one line for each reason; `--quiet` leaves it out."""
    with run_server(max_tracking_bytes=kept_for_one(server) * 3 // 2) as short:
        words = ["--text", "blue", "red", "--box", "0,87,9,96", "--json", "--server", short.address]
        flags = ["track", played(tmp_path / "squares.mp4", [3]), *words]
        assert main(flags) == 0
        (line,) = capsys.readouterr().err.splitlines()
        assert "words found 2 objects in 1 frame that could not be followed: what is remembered of 1 objects" in line
        assert main([*flags, "--quiet"]) == 0
        assert not capsys.readouterr().err
