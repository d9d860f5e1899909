"""The clients against the real server: every method, streams, sessions, keys and TLS."""

import asyncio
import io
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cutout_client
import numpy as np
import PIL.Image
import PIL.ImageDraw
import pycocotools.mask
import pytest
from certificates import self_signed
from conftest import Photo, RunningServer, run_server
from cutout_client import AsyncClient, Client, ImageId, Prompt, Segmentation, requests, tasks
from cutout_common.commit import commit

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # pycocotools

DISC = (15.0, 15.0, 85.0, 95.0)  # a box around it
BLOCK = (95.0, 25.0, 150.0, 105.0)
IN_DISC = (50.0, 55.0)


@pytest.fixture(scope="module")
def client(server: RunningServer) -> Iterator[Client]:
    with Client(server.address) as connected:
        yield connected


@pytest.fixture(scope="module")
def scene() -> bytes:
    """A yellow disc and a blue block on dark ground, 160 x 120: no model is in doubt, and every answer is exact."""
    image = PIL.Image.new("RGB", (160, 120), (30, 60, 40))
    draw = PIL.ImageDraw.Draw(image)
    draw.ellipse((20, 20, 80, 90), fill=(220, 180, 40))
    draw.rectangle((100, 30, 145, 100), fill=(60, 80, 230))
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


@pytest.fixture(scope="module")
def noise() -> np.ndarray:
    """Pixels that are too large for one message, as PNG too."""
    return np.random.default_rng(3).integers(0, 256, (1100, 1100, 3), np.uint8)


def same(one: Segmentation, other: Segmentation) -> bool:
    """Whether two answers have the same objects."""
    return [(each.label, each.box, each.rle) for each in one] == [(each.label, each.box, each.rle) for each in other]


def test_text(client: Client, photos: dict[str, Photo]) -> None:
    """Phrases give objects that carry them, with a detection score, in order of it."""
    result = client.segment_text(photos["astronaut"].jpeg, ["face"])
    assert result.labels[0] == "face"
    assert result[0].detection_score == result[0].score
    assert result[0].prompt_box is not None
    assert result[0].mask.sum() == result[0].area
    assert result.timings.total_ms > 0
    assert result.models == ("builtin",) * len(result.models) != ()


def test_unknown_words(client: Client, photos: dict[str, Photo]) -> None:
    """A word that the model does not know is a violated field."""
    with pytest.raises(cutout_client.InvalidRequestError) as caught:
        client.segment_text(photos["astronaut"].jpeg, ["face", "zeppelin"])
    assert [violation.field for violation in caught.value.violations] == ["phrases[1]"]
    assert caught.value.request_id


def test_boxes(client: Client, scene: bytes) -> None:
    """One box and several, as tuples, lists, arrays and earlier boxes, give one object each."""
    one = client.segment_box(scene, DISC)
    assert len(one) == 1
    with PIL.Image.open(io.BytesIO(scene)) as image:
        disc = np.asarray(image)[..., 0] == 220
    assert (one[0].mask & disc).sum() > 0.85 * (one[0].mask | disc).sum()
    assert one[0].prompt_box == DISC
    assert same(client.segment_box(scene, np.array(DISC)), one)
    assert same(client.segment_box(scene, [one[0].prompt_box]), one)
    two = client.segment_box(scene, [DISC, BLOCK])
    assert [each.prompt_index for each in two] == [0, 1]


def test_points(client: Client, scene: bytes) -> None:
    """Clicks are one object's; prompts are one object each, and may combine clicks, a box and logits."""
    clicks = client.segment_points(scene, [IN_DISC, (120, 60, 0)])
    assert len(clicks) == 1
    assert same(client.segment_points(scene, np.array([[*IN_DISC, 1], [120, 60, 0]])), clicks)
    assert same(client.segment_points(scene, Prompt([IN_DISC, (120, 60, 0)])), clicks)
    two = client.segment_points(scene, [Prompt([IN_DISC], box=DISC), Prompt(box=BLOCK)], return_logits=True)
    assert [each.prompt_index for each in two] == [0, 1]
    logits = two[0].logits
    assert logits is not None
    assert logits.shape == (256, 256)
    refined = client.segment_points(scene, Prompt([(60, 50)], logits=logits))
    assert refined[0].area > 0


def test_everything(client: Client, scene: bytes) -> None:
    """Everything gives several objects, the best first, and at most as many as asked for."""
    result = client.segment_everything(scene, max_objects=3)
    assert 1 <= len(result) <= 3
    assert list(result.scores) == sorted(result.scores, reverse=True)


@pytest.mark.parametrize("formats", [["png"], ["bits"], ["polygons"], ["polygons", "rle"], "png"])
def test_every_mask_format(client: Client, scene: bytes, formats: list[str]) -> None:
    """The mask is the same in whatever formats it travels, through streams as through single messages."""
    expected = client.segment_box(scene, DISC)[0].mask
    got = client.segment_box(scene, DISC, mask_formats=formats)[0]
    np.testing.assert_array_equal(got.mask, expected)
    assert len(got.encodings) == (1 if isinstance(formats, str) else len(formats))


def test_strategy_and_options(client: Client, scene: bytes) -> None:
    """Options reach the server under the contract's names; what was left out is said."""
    merged = client.segment_box(scene, [DISC, BLOCK], strategy="merge")
    assert len(merged) == 1
    none = client.segment_box(scene, DISC, min_area=10**6)
    assert len(none) == 0
    assert [(each.reason, each.count, each.prompt_indices) for each in none.omissions] == [("below_min_area", 1, (0,))]


def test_options_that_cannot_be_used(client: Client, scene: bytes) -> None:
    """Options, names and prompts that mean nothing are refused here, with what would."""
    with pytest.raises(TypeError, match=r"min_aera.*min_area"):
        client.segment_box(scene, DISC, min_aera=3)
    with pytest.raises(ValueError, match="all, best, largest, merge"):
        client.segment_box(scene, DISC, strategy="biggest")
    with pytest.raises(ValueError, match="rle, png, bits, polygons"):
        client.segment_box(scene, DISC, mask_formats=["svg"])
    with pytest.raises(ValueError, match="x_min, y_min, x_max, y_max"):
        client.segment_box(scene, [1, 2, 3])
    with pytest.raises(ValueError, match="label"):
        client.segment_points(scene, [(1, 2, 3)])
    with pytest.raises(ValueError, match=r"of several objects a Prompt each; got \[\(1, 2\)\]$"):
        client.segment_points(scene, [[(1, 2)] for _ in range(50)])
    with pytest.raises(ValueError, match="not both"):
        client.segment_points(scene, [(1, 2), Prompt([(1, 2)])])
    with pytest.raises(ValueError, match=r"logits are \(height, width\)"):
        client.segment_points(scene, Prompt(logits=np.zeros(4, np.float32)))


def test_server_overlay(client: Client, scene: bytes) -> None:
    """The overlay that the server draws is what `overlay` gives when the picture is not here."""
    uploaded = ImageId(client.upload(scene).image_id)
    image = client.segment_box(uploaded, DISC, overlay="jpeg").overlay()
    assert (image.format, image.size) == ("JPEG", (160, 120))


def test_render_overlay(client: Client, scene: bytes) -> None:
    """The server draws on files, pixels and stored pictures, for every kind of prompt; or gives the mask alone."""
    with PIL.Image.open(io.BytesIO(scene)) as image:
        pixels = np.asarray(image)
    drawn = client.overlay(scene, boxes=DISC)
    assert drawn.size == (160, 120)
    assert client.overlay(pixels, points=[IN_DISC]).size == (160, 120)
    assert client.overlay(client.upload(scene), phrases="yellow").size == (160, 120)
    mask = np.asarray(client.overlay(scene, boxes=[DISC], mask_only=True).convert("L")) > 127
    np.testing.assert_array_equal(mask, client.segment_box(scene, DISC)[0].mask)
    with pytest.raises(ValueError, match="no address"):
        client.overlay("https://example.org/cat.jpg", boxes=DISC)


@pytest.mark.parametrize("prompt", [{"phrases": "foreground"}, {"boxes": DISC}, {"prompts": [IN_DISC]}, {}])
def test_stream_gives_what_the_method_gives(client: Client, scene: bytes, prompt: dict) -> None:
    """A stream of any kind has the objects, the picture and the models of the whole answer."""
    name, value = next(iter(prompt.items()), ("", None))
    method = {
        "phrases": client.segment_text,
        "boxes": client.segment_box,
        "prompts": client.segment_points,
        "": client.segment_everything,
    }[name]
    whole = method(scene, value) if name else method(scene)
    with client.stream(scene, **prompt) as stream:
        assert stream.image is None
        result = stream.result()
        assert stream.image == whole.image
    assert same(result, whole)
    assert (result.models, result.omissions) == (whole.models, whole.omissions)


def test_stream_one_by_one(client: Client, scene: bytes) -> None:
    """Objects come one by one; what `result` gives after some were taken is the rest, with the summary."""
    boxes = [DISC, BLOCK, DISC]
    whole = client.segment_box(scene, boxes)
    with client.stream(scene, boxes=boxes) as stream:
        first = next(stream)
        rest = stream.result()
    assert [first.rle, *(each.rle for each in rest)] == [each.rle for each in whole]
    assert rest.timings.total_ms > 0


def test_stream_of_large_masks(client: Client) -> None:
    """Masks that travel in chunks are put together again."""
    pixels = np.zeros((3000, 4000), np.uint8)
    pixels[500:2500, 500:3500] = 255
    box = (400, 400, 3600, 2600)
    rle = client.segment_box(pixels, box)[0]
    bits = client.segment_box(pixels, box, mask_formats=["bits"])[0]
    assert bits.encodings[0].ByteSize() > 3000 * 4000 / 8
    np.testing.assert_array_equal(bits.mask, rle.mask)


def test_stream_refuses_several_prompts(client: Client, scene: bytes) -> None:
    """Prompts of two kinds, and thresholds of another kind, are refused."""
    with pytest.raises(ValueError, match=r"phrases.*boxes"):
        client.stream(scene, phrases="cat", boxes=DISC)
    with pytest.raises(ValueError, match="box_threshold cannot be used with boxes"):
        client.stream(scene, boxes=DISC, box_threshold=0.5)
    with pytest.raises(ValueError, match="detector cannot be used with everything"):
        client.stream(scene, detector="builtin")


def test_stream_error(client: Client) -> None:
    """A stream that fails raises when its first object is asked for."""
    stream = client.stream(b"no picture", boxes=DISC)
    with pytest.raises(cutout_client.InvalidRequestError):
        next(stream)


@pytest.mark.parametrize("large", [False, True], ids=["in the opening", "in chunks"])
def test_session(client: Client, scene: bytes, large: bool) -> None:
    """A session answers every kind of prompt as the methods do; a refused one leaves it open."""
    picture: object = scene
    if large:
        with PIL.Image.open(io.BytesIO(scene)) as image:
            picture = np.tile(np.asarray(image), (10, 8, 1))
    with client.session(picture) as session:
        assert session.segmenter == "builtin"
        assert session.image == client.segment_box(picture, DISC).image
        assert same(session.box(DISC), client.segment_box(picture, DISC))
        with pytest.raises(cutout_client.InvalidRequestError) as caught:
            session.box((5, 5, 5, 5))
        assert caught.value.violations[0].field == "box.boxes[0].x_max"
        clicked = session.points([IN_DISC], return_logits=True)
        assert session.points(Prompt(logits=clicked[0].logits, box=DISC))[0].area > 0
        if not large:
            assert session.text("yellow").models
            assert session.everything(max_objects=1).timings.embedding_cached


def test_session_after_an_interruption(client: Client, scene: bytes) -> None:
    """The answer to a prompt that nobody waits for any more is not taken for the next one's."""
    with client.session(scene) as session:
        session._send(requests.session_request(tasks.box_task(DISC, "", {})))
        assert same(session.box(BLOCK), client.segment_box(scene, BLOCK))


def test_session_of_several_threads(client: Client, scene: bytes) -> None:
    """Prompts of threads that share a session wait for each other; each gets its own answer, refused ones an error."""
    boxes = [DISC, BLOCK, (5, 5, 5, 5)] * 2
    with client.session(scene) as session, ThreadPoolExecutor(len(boxes)) as threads:
        asked = [threads.submit(session.box, box) for box in boxes]
        check_answers([each.exception() or each.result() for each in asked], client, scene)
        assert same(session.box(DISC), client.segment_box(scene, DISC))


async def test_session_of_several_tasks(server: RunningServer, client: Client, scene: bytes) -> None:
    """The same for tasks; one that is cancelled while it waits for its turn costs nobody anything."""
    async with AsyncClient(server.address) as asking, asking.session(scene) as session:
        answers = asyncio.gather(*map(session.box, [DISC, BLOCK, (5, 5, 5, 5)] * 2), return_exceptions=True)
        waiting = asyncio.create_task(session.everything())
        await asyncio.sleep(0)
        waiting.cancel()
        check_answers(await answers, client, scene)
        assert same(await session.box(DISC), client.segment_box(scene, DISC))
        last = asyncio.create_task(session.box(BLOCK))
        await asyncio.sleep(0)
    assert same(await last, client.segment_box(scene, BLOCK))  # leaving waits for it, too


def check_answers(answers: list[Any], client: Client, scene: bytes) -> None:
    """Three kinds in turn: the disc, the block, a refusal."""
    disc, block = client.segment_box(scene, DISC), client.segment_box(scene, BLOCK)
    assert all(same(answer, disc) for answer in answers[::3])
    assert all(same(answer, block) for answer in answers[1::3])
    assert all(isinstance(answer, cutout_client.InvalidRequestError) for answer in answers[2::3])


async def test_cancelled_session(server: RunningServer, scene: bytes) -> None:
    """A prompt whose task is cancelled ends the session, and nothing else."""
    async with AsyncClient(server.address) as client:
        async with client.session(scene) as session:
            asking = asyncio.create_task(session.everything())
            await asyncio.sleep(0.01)
            asking.cancel()
            with pytest.raises(asyncio.CancelledError):
                await asking
            with pytest.raises(cutout_client.CallCancelledError):
                await session.box(DISC)
        assert len(await client.segment_box(scene, DISC)) == 1


def test_session_of_what_is_no_picture(client: Client) -> None:
    """A session whose picture cannot be read does not open."""
    with pytest.raises(cutout_client.InvalidRequestError), client.session(b"no picture"):
        pass


def test_models_and_status(client: Client) -> None:
    """Models, status and health say what the server is."""
    (model,) = client.models()
    assert (model.name, model.family) == ("builtin", "builtin")
    assert {"segment", "detect"} <= set(model.tasks)
    assert "face" in model.vocabulary
    assert client.model("builtin") == model
    assert client.load_model("builtin").loaded_on == ("cpu",)
    status = client.status()
    assert status.state == "serving"
    assert (status.version, status.commit) == (cutout_client.__version__, commit())
    assert [device.name for device in status.devices] == ["cpu"]
    assert "builtin" in status.devices[0].models
    assert client.health() == "serving"
    assert client.health("cutout.v1.SegmentationService") == "serving"
    with pytest.raises(cutout_client.NotFoundError):
        client.health("no.such.Service")
    with pytest.raises(cutout_client.NotFoundError):
        client.model("no-such-model")


def test_deadline(client: Client, scene: bytes) -> None:
    """A call that takes longer than it may raises DeadlineError, with its request id."""
    with pytest.raises(cutout_client.DeadlineError) as caught:
        client.segment_everything(scene, timeout_s=0.005, request_id="short")
    assert caught.value.request_id == "short"


@pytest.mark.slow
async def test_asyncio(server: RunningServer, scene: bytes, noise: np.ndarray) -> None:
    """The asyncio client does all of it, several things at a time."""
    with Client(server.address) as sync:
        expected = sync.segment_box(scene, DISC)
    async with AsyncClient(server.address) as client:
        answers = await asyncio.gather(*(client.segment_box(scene, DISC) for _ in range(3)))
        assert all(same(answer, expected) for answer in answers)
        assert (await client.segment_text(scene, "foreground")).models
        assert len(await client.segment_points(scene, [IN_DISC])) == 1
        assert len(await client.segment_everything(scene, max_objects=1)) <= 1
        assert [each.rle for each in expected] == [each.rle async for each in client.stream(scene, boxes=DISC)]
        assert same(await client.segment_box(scene, DISC, mask_formats=["bits"]), expected)
        async with client.session(scene) as session:
            assert same(await session.box(DISC), expected)
            with pytest.raises(cutout_client.InvalidRequestError):
                await session.text("zeppelin")
            assert len(await session.points([IN_DISC])) == 1
            assert await session.everything(max_objects=1)
        uploaded = await client.upload(noise)
        assert len(await client.download(uploaded)) == uploaded.size_bytes
        assert (await client.segment_box(noise, DISC)).image.width == 1100
        assert (await client.overlay(uploaded, boxes=DISC)).size == (1100, 1100)
        assert (await client.overlay(scene, boxes=DISC)).size == (160, 120)
        await client.delete(uploaded)
        with pytest.raises(cutout_client.NotFoundError):
            await client.download(uploaded)
        assert (await client.models())[0] == await client.model("builtin")
        assert (await client.load_model("builtin")).loaded_on == ("cpu",)
        assert (await client.status()).state == await client.health() == "serving"


def test_api_key(scene: bytes) -> None:
    """A server with keys lets in who has one, and says so to who has not."""
    key = "0123456789abcdef"
    with run_server(api_keys=[{"caller": "me", "key": key}]) as server:
        with Client(server.address, api_key=key) as client:
            assert len(client.segment_box(scene, DISC)) == 1
        stranger = Client(server.address, api_key="another-key-altogether")
        with stranger, pytest.raises(cutout_client.UnauthenticatedError):
            stranger.segment_box(scene, DISC)
        with Client(server.address) as client, pytest.raises(cutout_client.UnauthenticatedError):
            client.models()


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A certificate for localhost that signed itself, and its key."""
    return self_signed(tmp_path_factory.mktemp("tls"))


def test_tls(certificates: tuple[Path, Path], scene: bytes) -> None:
    """TLS works with the authority that the caller trusts, by path and by bytes, and not without it."""
    certificate, key = certificates
    with run_server(tls_cert=certificate, tls_key=key) as server:
        for trusted in (certificate, str(certificate), certificate.read_bytes()):
            with Client(server.address, tls=True, root_certificates=trusted) as client:
                assert client.health() == "serving"
        with Client(server.address, tls=True, retries=0) as client, pytest.raises(cutout_client.UnavailableError):
            client.health()
        with Client(server.address, retries=0) as client, pytest.raises(cutout_client.UnavailableError):
            client.segment_box(scene, DISC)


def test_client_certificate(certificates: tuple[Path, Path]) -> None:
    """A server that wants a certificate gets the caller's."""
    certificate, key = certificates
    with run_server(tls_cert=certificate, tls_key=key, tls_client_ca=certificate) as server:
        settings = {"tls": True, "root_certificates": certificate, "retries": 0}
        with Client(server.address, **settings, client_certificate=certificate, client_key=key) as client:
            assert client.health() == "serving"
        with Client(server.address, **settings) as client, pytest.raises(cutout_client.UnavailableError):
            client.health()


def test_rle_is_what_pycocotools_reads(client: Client, scene: bytes) -> None:
    """The RLE that comes from the server decodes in pycocotools to the same mask."""
    each = client.segment_box(scene, DISC)[0]
    np.testing.assert_array_equal(pycocotools.mask.decode(each.rle), each.mask)
