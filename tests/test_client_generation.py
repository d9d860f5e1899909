"""Pictures from words through both clients and the command line, from a real server."""

import io
import json
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
from client_fixtures import cutout
from conftest import RunningServer
from cutout.v1 import generation_service_pb2
from cutout_client import (
    AsyncClient,
    Client,
    FailedPreconditionError,
    GeneratedImage,
    GenerationProgress,
    InternalError,
    InvalidRequestError,
)
from cutout_client.cli import main
from cutout_client.generation import PictureAssembly, generation_request
from generation_fixtures import clip_folder, painter, sd1  # noqa: F401 - fixtures

pytestmark = pytest.mark.slow

WORDS = ["the cat", "on the dog"]


@pytest.fixture
def client(painter: RunningServer):  # noqa: F811
    with Client(painter.address) as client:
        yield client


def test_pictures(client: Client, tmp_path: Path):
    """One picture for each prompt, with what made it; the same seed makes it again."""
    result = client.generate(WORDS, steps=2, seed=5, request_id="mine")
    assert [(each.prompt, each.prompt_index, each.seed) for each in result] == [(WORDS[0], 0, 5), (WORDS[1], 1, 6)]
    assert (result.generator, result.request_id, len(result)) == ("sd", "mine", 2)
    assert result.timings.generate_ms > 0
    assert result[0].image.size == (result[0].width, result[0].height) == (96, 96)
    assert result[0].segmentation is None
    path = result[1].save(tmp_path / "dog.png")
    (again,) = client.generate(WORDS[1], steps=2, seed=6)
    np.testing.assert_array_equal(np.asarray(PIL.Image.open(path)), np.asarray(again.image))


def test_the_service_is_healthy(client: Client):
    """The standard health check knows the service."""
    assert client.health("cutout.v1.GenerationService") == "serving"


def test_every_option_arrives(client: Client):
    """Size, steps, guidance, negative prompt and format are what was asked for."""
    plain, other = (client.generate("the cat", steps=2, seed=5, guidance=g)[0] for g in (7.5, 2))
    assert plain.data == client.generate("the cat", steps=2, seed=5)[0].data != other.data
    assert client.generate("the cat", steps=2, seed=5, negative_prompt="dog")[0].data != plain.data
    (small,) = client.generate("the cat", steps=1, width=72, height=64, image_format="jpeg", generator="sd")
    assert (small.image.size, small.content_type) == ((72, 64), "image/jpeg")


def test_steps_are_told(client: Client):
    """A stream gives each step and each picture as they come; `result` has what was not taken."""
    with client.generate_stream(WORDS, steps=3, seed=5) as stream:
        events = [next(stream) for _ in range(4)]
        assert events[:3] == [GenerationProgress(0, step, 3) for step in (1, 2, 3)]
        assert isinstance(events[3], GeneratedImage)
        rest = stream.result()
    assert [each.prompt_index for each in rest] == [1]
    assert rest.images == client.generate(WORDS, steps=3, seed=5).images[1:]


def test_leaving_early_ends_the_work(client: Client, painter: RunningServer):  # noqa: F811
    """A stream that is closed leaves the device to others."""
    with client.generate_stream("the cat", steps=200, width=256, height=256) as stream:
        next(stream)
    client.generate("the cat", steps=1)
    assert painter.app.status().devices[0].requests == 0


def test_cut_out_at_once(client: Client):
    """What is found in a picture comes with it, and is what asking for it afterwards gives."""
    options = {"predicted_iou_threshold": 0.0, "stability_threshold": 0.0, "max_objects": 3}
    (image,) = client.generate("the cat", steps=2, seed=5, width=128, height=128, everything=True, **options)
    found = image.segmentation
    assert found is not None
    assert 1 <= len(found) <= 3
    np.testing.assert_array_equal(found.masks, client.segment_everything(image.data, **options).masks)
    assert found.overlay().size == (128, 128)
    (image,) = client.generate("the cat", steps=2, phrases="red . blue", segmenter="builtin", overlay="png")
    assert image.segmentation is not None
    assert PIL.Image.open(io.BytesIO(image.segmentation.overlay_file)).size == (96, 96)


async def test_asyncio(painter: RunningServer):  # noqa: F811
    """The same with asyncio."""
    async with AsyncClient(painter.address) as client:
        result = await client.generate(WORDS, steps=2, seed=5, everything=True)
        stream = client.generate_stream(WORDS[0], steps=2, seed=5)
        events = [event async for event in stream]
        assert [type(event) for event in events] == [GenerationProgress, GenerationProgress, GeneratedImage]
        assert (await stream.result()).generator == "sd"
    assert events[2].data == result[0].data
    assert len(result) == 2
    assert result[1].segmentation is not None


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"size": 5}, TypeError, r"unknown option size.*width, height, steps"),
        ({"image_format": "gif"}, ValueError, "image_format must be one of png, jpeg"),
        ({"phrases": "cat", "everything": True}, ValueError, "give one of phrases, concepts and everything"),
        ({"strategy": "merge"}, ValueError, "strategy needs something to cut out"),
        ({"concepts": ["cat"], "detector": "x"}, ValueError, "detector cannot be used with concepts"),
        ({"seed": -1}, ValueError, "seed must be a whole number of at least 0, not -1"),
    ],
)
def test_options_that_cannot_be_used(options: dict, error: type[Exception], text: str):
    """What means nothing is refused before a call is made."""
    with Client("localhost:1") as client, pytest.raises(error, match=text):
        client.generate("cat", **options)


def test_what_the_server_refuses(client: Client, server: RunningServer):
    """Wrong fields, and a server that has no generator."""
    with pytest.raises(InvalidRequestError, match=r"request\.width: expected a multiple of 8"):
        client.generate("cat", width=65)
    with Client(server.address) as other, pytest.raises(FailedPreconditionError, match="no model that can generate"):
        other.generate("cat")


def test_analysed_at_once(client: Client):
    """What a picture shows comes with it, and is what asking for it afterwards gives."""
    asked = {"concepts": ["cat", "dog"], "template": "a {}", "regions": [9, 9, 60, 70]}
    (image,) = client.generate("the cat", steps=2, seed=5, **asked)
    assert image.segmentation is not None
    after = client.analyze(image.data, **asked)
    assert image.segmentation.concepts == after.concepts
    assert [each.concepts for each in image.segmentation] == [each.concepts for each in after] != []


def test_an_answer_that_ends_too_early():
    """A summary before every picture was there is an error, not a short answer."""
    assembly = PictureAssembly(generation_request(WORDS, {}), "mine")
    summary = generation_service_pb2.GenerationSummary(generator="sd")
    assembly.add(generation_service_pb2.StreamGenerationResponse(summary=summary))
    with pytest.raises(InternalError, match="before every picture was there"):
        assembly.result([])


def test_command(painter: RunningServer, tmp_path: Path):  # noqa: F811
    """Pictures and masks as files, a table of them."""
    flags = ["--steps", "2", "--seed", "5", "--everything", "--max-objects", "2", "--format", "overlay,rle"]
    done = cutout(painter.address, "generate", *WORDS, *flags, "--out", tmp_path / "out")
    assert done.stderr == ""
    names = {path.name for path in (tmp_path / "out").iterdir()}
    stems = ["the_cat.5", "on_the_dog.6"]
    assert names == {f"{stem}.{end}" for stem in stems for end in ("png", "overlay.png", "rle.json")}
    assert "the_cat.5.png" in done.stdout
    assert "2 made in" in done.stdout
    assert max(map(len, done.stdout.splitlines()[:-1])) <= 80
    with Client(painter.address) as client:
        (expected, _) = client.generate(WORDS, steps=2, seed=5)
    assert (tmp_path / "out" / "the_cat.5.png").read_bytes() == expected.data


def test_command_for_machines(painter: RunningServer, tmp_path: Path):  # noqa: F811
    """One document for each picture."""
    flags = ["--steps", "1", "--width", "64", "--image-format", "jpeg", "--json", "--out", tmp_path]
    done = cutout(painter.address, "generate", "the cat", "--text", "red", "Red", *flags)
    (described,) = map(json.loads, done.stdout.splitlines())
    told = described["omissions"][-1]
    assert (told["reason"], told["prompt_indices"], told["same_as"]) == ("same_phrase", [1], 0)
    assert (described["prompt"], described["width"], described["height"]) == ("the cat", 64, 96)
    assert isinstance(described["seed"], int)
    assert isinstance(described["objects"], list)
    assert Path(described["files"][0]).suffix == ".jpg"
    assert all(Path(path).exists() for path in described["files"])


@pytest.mark.parametrize(
    ("flags", "text"),
    [
        ([], "WORDS"),
        (["cat", "--text", "cat", "--everything"], "--text, --concept and --everything cannot go together"),
        (["cat", "--strategy", "merge"], "say what to cut out"),
        (["cat", "--detector", "builtin"], "say what to cut out"),
        (["cat", "--format", "svg"], "--format takes overlay, png"),
        (["cat", "--image-format", "gif"], "invalid choice: 'gif'"),
        (["cat", "--size", "5"], "unrecognized arguments: --size"),
    ],
)
def test_flags_that_cannot_be_used(flags: list[str], text: str, capsys: pytest.CaptureFixture[str]):
    """Flags that mean nothing end the command with status 2 and the reason."""
    with pytest.raises(SystemExit) as caught:
        main(["generate", *flags])
    assert caught.value.code == 2
    assert text in capsys.readouterr().err
