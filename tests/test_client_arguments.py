"""What callers get for arguments that there are not: the list of those that there are, and what they probably meant."""

import asyncio
import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import RunningServer
from cutout_client import AsyncClient, Client, Tiling, TrackPrompt

PIXELS = np.zeros((24, 32, 3), np.uint8)
BOX = (7, 5, 25, 19)

Call = Callable[[Any], Any]


@contextmanager
def nowhere() -> Iterator[Client]:
    """A client whose calls would fail otherwise than by their arguments."""
    with Client("127.0.0.1:1", retries=0) as client:
        yield client


async def call_async(address: str, call: Call) -> None:
    async with AsyncClient(address, retries=0) as client:
        made = call(client)
        if inspect.isawaitable(made):
            await made


CALLS: dict[str, tuple[Call, type[Exception], str]] = {
    "model for segmenter": (
        lambda c: c.segment_box(PIXELS, BOX, model="sam"),
        TypeError,
        r"unknown option model \(did you mean segmenter\?\); segment_box\(\) takes image, boxes, segmenter, timeout_s,",
    ),
    "model with two meanings": (
        lambda c: c.segment_text(PIXELS, "cat", model="sam"),
        TypeError,
        r"did you mean segmenter or detector\?\); segment_text\(\) takes image, phrases, detector, .*box_threshold",
    ),
    "model of analyze": (lambda c: c.analyze(PIXELS, "cat", model="clip"), TypeError, "segmenter or classifier"),
    "model of generate": (
        lambda c: c.generate("cat", model="sd"),
        TypeError,
        r"did you mean generator or .*guidance",
    ),
    "model of generate_stream": (lambda c: c.generate_stream("cat", model="sd"), TypeError, "generate_stream.. takes"),
    "model of a stream": (
        lambda c: c.stream(PIXELS, boxes=BOX, model="sam"),
        TypeError,
        r"stream\(\) takes image, phr",
    ),
    "model of a session": (
        lambda c: c.session(PIXELS, model="sam"),
        TypeError,
        r"segmenter\?\); session\(\) takes image",
    ),
    "model of an overlay": (lambda c: c.overlay(PIXELS, model="sam"), TypeError, r"segmenter or detector\?\); overlay"),
    "a misspelt option": (
        lambda c: c.segment_everything(PIXELS, point_per_side=4),
        TypeError,
        r"point_per_side \(did you mean points_per_side\?\).*stability_offset",
    ),
    "a misspelt timeout": (lambda c: c.models(timeout=0.5), TypeError, r"timeout \(did you mean timeout_s\?\)"),
    "an option of nothing": (lambda c: c.segment_points(PIXELS, (1, 2), zebra=1), TypeError, "zebra; segment_points"),
    "an option of another kind": (
        lambda c: c.stream(PIXELS, boxes=BOX, crop_layers=1),
        ValueError,
        "crop_layers cannot be used with boxes, where the options are multimask, strategy",
    ),
    "no words": (
        lambda c: c.segment_text(PIXELS, [1]),
        TypeError,
        r"phrases must be text, or a list of texts such as \['cat', 'dog'\], not \[1\]",
    ),
    "a name that is none": (lambda c: c.load_model(5), TypeError, "name must be text, not 5"),
    "an id that is none": (lambda c: c.delete(5), TypeError, "image must be a stored picture, or its id, not 5"),
    "an id of a file that is none": (lambda c: c.download(5), TypeError, "image must be a stored picture, or its id"),
    "a service that is none": (lambda c: c.health(5), TypeError, "service must be text, not 5"),
    "a device that is none": (lambda c: c.unload_model("sam", 5), TypeError, "device must be text, not 5"),
    "a time that is none": (lambda c: c.models(timeout_s="5"), TypeError, "timeout_s must be a number of seconds, or"),
    "a request id that is none": (lambda c: c.models(request_id=5), TypeError, "request_id must be text, not 5"),
    "a video's id that is none": (lambda c: c.video(5), TypeError, "video must be a stored video, or its id, not 5"),
    "a video to delete": (lambda c: c.delete_video(None), TypeError, "video must be a stored video.*not None"),
    "a video to store": (lambda c: c.upload_video(5), TypeError, "video must be the path of a file, or its bytes"),
    "a video to follow": (lambda c: c.track_video(5, phrases={0: "cat"}), TypeError, "video must be a stored video"),
    "a start that is none": (lambda c: c.track_video("v", start="a"), TypeError, "start must be a whole number"),
    "a start behind all": (lambda c: c.track_video("v", start=2**40), ValueError, "start must be a whole.*not 1099"),
    "an end that is none": (lambda c: c.track("v.mp4", end="a"), TypeError, "end must be a whole number, not 'a'"),
    "a step that is none": (lambda c: c.track_video("v", every=None), TypeError, "every must be a whole.*None"),
    "a way that is none": (lambda c: c.track_video("v", direction=["both"]), ValueError, "direction must be one of"),
    "phrases by no frame": (lambda c: c.track_video("v", phrases="cat"), TypeError, "phrases must be a dict by frame"),
    "a frame that is none": (
        lambda c: c.track_video("v", prompts={"a": {}}),
        TypeError,
        "a frame of prompts must be a whole number, not 'a'",
    ),
    "prompts by no object": (lambda c: c.live([], prompts=[BOX]), TypeError, "prompts must be a dict of TrackPrompts"),
    "prompts of pictures": (lambda c: c.live([], prompts={1: BOX}), TypeError, "each of prompts must be a TrackPrompt"),
    "an object that is none": (
        lambda c: c.track_video("v", prompts={0: {"a": TrackPrompt(box=BOX)}}),
        TypeError,
        "an object of prompts must be a whole number of at least 0, not 'a'",
    ),
    "words that are nothing": (lambda c: c.segment_text(PIXELS, None), TypeError, "phrases must be text.*not None"),
    "words that are bytes": (lambda c: c.stream(PIXELS, phrases=b"cat"), TypeError, "phrases must be text.*b'cat'"),
    "concepts that are none": (lambda c: c.analyze(PIXELS, ["cat", 2]), TypeError, "concepts must be text"),
    "prompts that are none": (lambda c: c.generate([1]), TypeError, "prompts must be text"),
    "phrases of an overlay": (lambda c: c.overlay(PIXELS, phrases=[1]), TypeError, "phrases must be text"),
    "a word of another list": (
        lambda c: c.segment_box(PIXELS, BOX, strategy="bigest"),
        ValueError,
        r"strategy must be one of all, best, largest, merge, not 'bigest' \(did you mean best\?\)",
    ),
    "a format that is none": (
        lambda c: c.segment_box(PIXELS, BOX, mask_formats="polygon"),
        ValueError,
        r"mask_formats must be one of rle, png, bits, polygons, not 'polygon' \(did you mean polygons\?\)",
    ),
    "a number that is none": (
        lambda c: c.segment_box(PIXELS, BOX, max_objects="3"),
        TypeError,
        "max_objects must be a whole number of at least 0, not '3'",
    ),
    "a number below all": (lambda c: c.segment_box(PIXELS, BOX, min_area=-1), ValueError, "min_area must be a whole"),
    "a threshold that is none": (
        lambda c: c.segment_text(PIXELS, "cat", box_threshold="high"),
        TypeError,
        "box_threshold must be a number, not 'high'",
    ),
    "a switch that is none": (lambda c: c.segment_box(PIXELS, BOX, multimask="no"), TypeError, "True or False"),
    "a model that is no name": (lambda c: c.segment_box(PIXELS, BOX, segmenter=5), TypeError, "segmenter must be text"),
    "a tile that is none": (lambda c: c.segment_box(PIXELS, BOX, tiling=Tiling("x")), TypeError, "tile_size must be a"),
    "a box that is none": (lambda c: c.segment_box(PIXELS, 5), ValueError, "boxes are x_min.*; got 5"),
    "a box in words": (lambda c: c.segment_box(PIXELS, list("abcd")), ValueError, r"boxes are x_min.*got 'a'"),
    "a box with a gap": (lambda c: c.segment_box(PIXELS, (1, 2, 3, None)), ValueError, "boxes are x_min.*in numbers"),
    "points that are none": (lambda c: c.segment_points(PIXELS, 5), ValueError, "points are x, y"),
}


@pytest.mark.parametrize("name", CALLS)
def test_arguments_that_there_are_not(name: str) -> None:
    """The message says what there is; nothing is sent."""
    call, kind, text = CALLS[name]
    with nowhere() as client, pytest.raises(kind, match=text):
        call(client)


@pytest.mark.parametrize("name", CALLS)
def test_asynchronous_arguments_that_there_are_not(name: str) -> None:
    """The same with asyncio."""
    call, kind, text = CALLS[name]
    with pytest.raises(kind, match=text):
        asyncio.run(call_async("127.0.0.1:1", call))


IN_SESSION: list[tuple[Call, str]] = [
    (lambda s: s.box(BOX, segmenter="sam"), r"unknown option segmenter; box\(\) takes boxes, timeout_s, multimask"),
    (lambda s: s.text("cat", model="sam"), r"model \(did you mean detector\?\); text\(\) takes phrases, detector"),
    (lambda s: s.text([1]), "phrases must be text"),
    (lambda s: s.everything(max_object=1), "did you mean max_objects"),
    (lambda s: s.analyze([1]), "concepts must be text"),
]


def test_a_sessions_arguments(server: RunningServer) -> None:
    """Sessions list theirs, and go on."""
    with Client(server.address) as client, client.session(PIXELS) as session:
        for call, text in IN_SESSION:
            with pytest.raises(TypeError, match=text):
                call(session)
        assert len(session.box(BOX)) == 1


async def test_an_asynchronous_sessions_arguments(server: RunningServer) -> None:
    """The same with asyncio."""
    async with AsyncClient(server.address) as client, client.session(PIXELS) as session:
        for call, text in IN_SESSION:
            with pytest.raises(TypeError, match=text):
                await call(session)
        assert len(await session.box(BOX)) == 1


@pytest.mark.parametrize("kind", [Client, AsyncClient])
def test_a_clients_own_arguments(kind: type) -> None:
    """So do the clients when they are made."""
    with pytest.raises(TypeError, match=r"adress \(did you mean address\?\); \w*Client\(\) takes address, api_key"):
        kind(adress="localhost:50051")
    for wrong in ({"address": 5}, {"api_key": 5}, {"timeout_s": "5"}, {"retries": None}, {"max_in_flight": "many"}):
        (name,) = wrong
        with pytest.raises(TypeError, match=f"^{name} must be "):
            kind(**wrong)


@pytest.mark.parametrize("kind", ["sync", "asyncio"])
def test_a_folder_is_no_picture(tmp_path: Path, kind: str) -> None:
    """A folder given as a picture is named as such, with what it holds and the command that takes folders."""
    for name in ("b.jpg", "a.jpg", "c.jpg", "d.jpg", ".hidden"):
        (tmp_path / name).touch()
    text = r"is a folder and a picture is a file; it holds a\.jpg, b\.jpg, c\.jpg \.\.\.\. `cutout segment"
    with pytest.raises(IsADirectoryError, match=text):
        ask(kind, tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(IsADirectoryError, match="it holds no file"):
        ask(kind, str(tmp_path / "empty"))


@pytest.mark.parametrize("kind", ["sync", "asyncio"])
def test_a_misspelt_file(tmp_path: Path, kind: str) -> None:
    """A path that names no file is answered with the name that comes nearest."""
    (tmp_path / "kitten.jpg").touch()
    with pytest.raises(FileNotFoundError, match=r"no picture file .*kiten\.jpg \(did you mean kitten\.jpg\?\)"):
        ask(kind, tmp_path / "kiten.jpg")
    with pytest.raises(FileNotFoundError, match=r"nowhere/cat\.jpg$"):
        ask(kind, tmp_path / "nowhere" / "cat.jpg")


def ask(kind: str, picture: Any) -> None:
    if kind == "asyncio":
        asyncio.run(call_async("127.0.0.1:1", lambda client: client.segment_box(picture, BOX)))
    else:
        with nowhere() as client:
            client.segment_box(picture, BOX)
