"""Concepts, examples and rewritten phrases through the clients: the real server, a small CLIP, a language model."""

import io
import json
from collections.abc import Iterator
from pathlib import Path

import client_fixtures
import cutout_client
import numpy as np
import PIL.Image
import pytest
import torch
from analysis_fixtures import Analysis, analysis, clip_folder, words  # noqa: F401 - fixtures
from client_fixtures import ScriptedServer
from conftest import Photo, encode
from cutout_client import AsyncClient, Client, Concepts, Exemplar, Segmentation
from language_model import LanguageModel
from pycocotools.coco import COCO
from transformers import CLIPModel, CLIPProcessor

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # pycocotools

CONCEPTS = ["an astronaut", "a cat", "a cup of coffee", "a rocket"]
CAT = (50.0, 10.0, 200.0, 145.0)
EAR = (30.0, 30.0, 110.0, 80.0)
CHEST = (30.0, 100.0)
SENTENCE = "what colour are ripe bananas?"


@pytest.fixture(scope="module")
def client(analysis: Analysis) -> Iterator[Client]:  # noqa: F811
    with Client(analysis.address) as connected:
        yield connected


@pytest.fixture(scope="module")
def cat(photos: dict[str, Photo]) -> Photo:
    """At half its size, for the sake of time."""
    pixels = np.ascontiguousarray(photos["chelsea"].pixels[::2, ::2])
    return Photo(pixels, encode(pixels))


@pytest.fixture
def scripted() -> Iterator[ScriptedServer]:
    with client_fixtures.scripted_server() as running:
        yield running


def expected_scores(folder: Path, pixels: np.ndarray, template: str = "a photo of a {}") -> np.ndarray:
    """What the model's own documentation does: processor, logits per image, softmax."""
    model, processor = CLIPModel.from_pretrained(folder), CLIPProcessor.from_pretrained(folder)
    texts = [template.replace("{}", concept) for concept in CONCEPTS]
    given = processor(text=texts, images=PIL.Image.fromarray(pixels), return_tensors="pt", padding=True)
    with torch.no_grad():
        scores: np.ndarray = model(**given).logits_per_image.softmax(dim=1)[0].numpy()
    return scores


def in_order(concepts: Concepts | None) -> np.ndarray:
    """The scores in the order of the request."""
    assert concepts is not None
    return np.array([each.score for each in sorted(concepts, key=lambda each: each.concept_index)])


def same(one: Segmentation, other: Segmentation) -> bool:
    """Whether two answers say the same."""
    if one.rewriting != other.rewriting or one.models != other.models:
        return False
    if [(each.name, each.rle) for each in one] != [(each.name, each.rle) for each in other]:
        return False
    shown, others = ([answer.concepts, *(each.concepts for each in answer)] for answer in (one, other))
    return all(alike(*each) for each in zip(shown, others, strict=True))


def alike(concepts: Concepts | None, others: Concepts | None) -> bool:
    """Whether they are the same but for rounding: a score's last digit hangs on which crops shared its pass."""
    if concepts is None or others is None:
        return concepts is others
    return concepts.to_dict() == pytest.approx(others.to_dict(), abs=1e-5)


def test_concepts_of_picture_and_regions(client: Client, analysis: Analysis, cat: Photo):  # noqa: F811
    """Boxes and points give objects in their order; picture and objects have the scores of the reference."""
    result = client.analyze(cat.jpeg, CONCEPTS, regions=[CAT, CHEST, EAR], classifier="clip")
    with PIL.Image.open(io.BytesIO(cat.jpeg)) as image:
        pixels = np.asarray(image)
    np.testing.assert_allclose(in_order(result.concepts), expected_scores(analysis.clip, pixels), atol=1e-4)
    assert [each.prompt_index for each in result] == [0, 1, 2]
    for each in result:
        x_min, y_min, x_max, y_max = map(int, each.box)
        crop = np.ascontiguousarray(pixels[y_min:y_max, x_min:x_max])
        np.testing.assert_allclose(in_order(each.concepts), expected_scores(analysis.clip, crop), atol=1e-4)
    scores = [each.score for each in result.concepts or ()]
    assert scores == sorted(scores, reverse=True)
    assert sum(scores) == pytest.approx(1)
    assert np.ptp(scores) > 0.1  # Else the comparison above would prove nothing.
    assert result.models == ("builtin", "clip")
    assert result.timings.classify_ms > 0


def test_regions_are_cut_out_as_their_prompts_are(client: Client, cat: Photo):
    """A box gives the mask of segment_box, a point that of segment_points; outlines come without being asked for."""
    result = client.analyze(cat.jpeg, CONCEPTS, regions=[CAT, CHEST], classifier="clip")
    assert result[0].rle == client.segment_box(cat.jpeg, CAT)[0].rle
    assert result[1].rle == client.segment_points(cat.jpeg, [CHEST])[0].rle
    assert (result[0].prompt_box, result[1].prompt_box) == (CAT, None)
    assert all(each.polygons[0].exterior.shape[1] == 2 for each in result)
    one = client.analyze(cat.jpeg, CONCEPTS, regions=np.array(CAT), classifier="clip")
    assert [each.rle for each in one] == [result[0].rle]


def test_everything_is_described_when_no_region_is_given(client: Client, cat: Photo):
    """Without regions the objects are those of segment_everything, each with its concepts."""
    result = client.analyze(cat.jpeg, CONCEPTS, classifier="clip", max_objects=3)
    everything = client.segment_everything(cat.jpeg, max_objects=3)
    assert [each.rle for each in result] == [each.rle for each in everything]
    assert len(result) > 1
    assert all(len(each.concepts or ()) == len(CONCEPTS) for each in result)
    assert all(each.concepts is None for each in everything)
    assert everything.concepts is None


def test_best_and_dict(client: Client, cat: Photo):
    """The best concept is the first; as a dict they keep their order; one concept alone is certain."""
    concepts = client.analyze(cat.jpeg, CONCEPTS, regions=CAT, classifier="clip").concepts
    assert concepts is not None
    assert concepts.best == concepts.scores[0]
    assert CONCEPTS[concepts.best.concept_index] == concepts.best.concept
    assert list(concepts.to_dict().values()) == [each.score for each in concepts]
    alone = client.analyze(cat.jpeg, "a cat", regions=CAT)  # The default classifier is the only one.
    assert alone.concepts is not None
    assert (alone.concepts.best.score, alone[0].name) == (1.0, "a cat")


def test_template(client: Client, analysis: Analysis, cat: Photo):  # noqa: F811
    """Concepts are compared inside the template that was given."""
    result = client.analyze(cat.jpeg, CONCEPTS, regions=CAT, template="{}", classifier="clip")
    with PIL.Image.open(io.BytesIO(cat.jpeg)) as image:
        expected = expected_scores(analysis.clip, np.asarray(image), "{}")
    np.testing.assert_allclose(in_order(result.concepts), expected, atol=1e-4)


@pytest.mark.parametrize("more", [{"regions": [CAT, CHEST]}, {"regions": [CAT], "mask_formats": ["png"]}, {}])
@pytest.mark.slow
def test_streams(client: Client, cat: Photo, more: dict):
    """A stream says what the picture shows before its first object, and is the whole answer in the end."""
    whole = client.analyze(cat.jpeg, CONCEPTS, classifier="clip", **more)
    with client.stream(cat.jpeg, concepts=CONCEPTS, classifier="clip", **more) as stream:
        assert stream.concepts is None
        first = next(stream)
        assert stream.concepts is not None
        assert alike(stream.concepts, whole.concepts)
        assert alike(first.concepts, whole[0].concepts)
    assert same(client.stream(cat.jpeg, concepts=CONCEPTS, classifier="clip", **more).result(), whole)


def test_sessions(client: Client, cat: Photo):
    """A session answers as the method does; what is refused leaves it open."""
    whole = client.analyze(cat.jpeg, CONCEPTS, regions=[CAT], classifier="clip")
    with client.session(cat.jpeg) as session:
        with pytest.raises(cutout_client.InvalidRequestError) as caught:
            session.analyze(["a cat", "a cat"], classifier="clip")
        assert caught.value.violations[0].field.startswith("analyze.concepts")
        assert same(session.analyze(CONCEPTS, regions=[CAT], classifier="clip"), whole)


async def test_asyncio(analysis: Analysis, cat: Photo, words: LanguageModel):  # noqa: F811
    """The asyncio client does all of it."""
    given = {"regions": [CAT, CHEST], "classifier": "clip"}
    words.says((0, "yellow"))
    async with AsyncClient(analysis.address) as client:
        whole = await client.analyze(cat.jpeg, CONCEPTS, **given)
        assert len(whole) == 2
        stream = client.stream(cat.jpeg, concepts=CONCEPTS, **given)
        streamed = [each.concepts async for each in stream]
        assert all(alike(ours, each.concepts) for ours, each in zip(streamed, whole, strict=True))
        assert alike(stream.concepts, whole.concepts)
        async with client.session(cat.jpeg) as session:
            assert same(await session.analyze(CONCEPTS, **given), whole)
            assert (await session.text(SENTENCE, rewrite=True)).rewriting is not None
        rewritten = await client.segment_text(cat.jpeg, SENTENCE, rewrite=True)
        stream = client.stream(cat.jpeg, phrases=SENTENCE, rewrite=True)
        assert [each.label async for each in stream] == list(rewritten.labels)
        assert stream.rewriting == rewritten.rewriting is not None


def test_what_the_server_refuses(client: Client, cat: Photo):
    """Unknown classifiers, regions outside of the picture and doubled concepts are violated fields."""
    for changes, field in [
        ({"classifier": "nobody"}, "classifier"),
        ({"regions": [CAT, (900.0, 900.0)]}, "regions[1].point"),
        ({"template": "a photo"}, "template"),
        ({"concepts": ["a cat", "a dog", "a cat"]}, "concepts"),
    ]:
        given = {"concepts": CONCEPTS, "classifier": "clip"} | changes
        with pytest.raises(cutout_client.InvalidRequestError) as caught:
            client.analyze(cat.jpeg, **given)
        assert caught.value.violations[0].field.startswith(field)


def test_what_is_refused_here(client: Client, cat: Photo):
    """Regions that are none, and options of another kind of prompt, are refused before a call is made."""
    with pytest.raises(ValueError, match="regions is empty"):
        client.analyze(cat.jpeg, CONCEPTS, regions=[])
    with pytest.raises(ValueError, match="regions are x_min, y_min, x_max, y_max or x, y"):
        client.analyze(cat.jpeg, CONCEPTS, regions=[(1, 2, 3)])
    with pytest.raises(TypeError, match=r"unknown option tempalte.*multimask"):
        client.analyze(cat.jpeg, CONCEPTS, tempalte="{}")
    with pytest.raises(TypeError, match=r"unknown option crop_layers.*rewrite"):
        client.segment_text(cat.jpeg, "cat", crop_layers=1)
    with pytest.raises(ValueError, match="exemplar's box is"):
        client.segment_text(cat.jpeg, "cat", exemplars=[(1, 2, 3)])
    with pytest.raises(ValueError, match="phrases, concepts"):
        client.stream(cat.jpeg, concepts=CONCEPTS, phrases="cat")
    with pytest.raises(ValueError, match="regions, template cannot be used with phrases"):
        client.stream(cat.jpeg, phrases="cat", regions=np.array([CAT]), template="{}", classifier="")
    with pytest.raises(ValueError, match="rewrite cannot be used with concepts"):
        client.stream(cat.jpeg, concepts=CONCEPTS, rewrite=True)


def test_overlay_and_files(client: Client, cat: Photo, tmp_path: Path):
    """Drawings, file names, JSON, COCO and arrays call objects by their best concept and carry every score."""
    plain = client.segment_box(cat.jpeg, [CAT, EAR])
    result = client.analyze(cat.jpeg, CONCEPTS, regions=[CAT, EAR], classifier="clip")
    assert [each.label for each in result] == ["", ""]
    names = [each.name for each in result]
    assert [each.concepts.best.concept for each in result if each.concepts] == names
    assert np.any(np.asarray(result.overlay()) != np.asarray(plain.overlay()))  # Labels.
    files = result.save(tmp_path, ["png", "rle", "polygons", "coco", "npz"], name="cat")
    assert files[0].name == f"cat.000-{names[0].replace(' ', '_')}.mask.png"
    for form in ("rle", "polygons"):
        described = json.loads((tmp_path / f"cat.{form}.json").read_text())
        assert [each["concepts"] for each in described] == [each.concepts.to_dict() for each in result if each.concepts]
    coco = COCO(str(tmp_path / "cat.coco.json"))
    assert [each["name"] for each in coco.loadCats(coco.getCatIds())] == list(dict.fromkeys(names))
    assert coco.loadImgs(1)[0]["concepts"] == result.concepts.to_dict() if result.concepts else False
    with np.load(tmp_path / "cat.npz") as arrays:
        assert list(arrays["concepts"]) == CONCEPTS
        np.testing.assert_allclose(arrays["picture_concept_scores"], in_order(result.concepts), rtol=1e-6)
        np.testing.assert_allclose(arrays["concept_scores"], [in_order(e.concepts) for e in result], rtol=1e-6)
    plain.save(tmp_path, ["rle", "npz"], name="plain")
    assert "concepts" not in (tmp_path / "plain.rle.json").read_text()
    with np.load(tmp_path / "plain.npz") as arrays:
        assert "concepts" not in arrays


def test_server_overlay_names_concepts(client: Client, cat: Photo):
    """What the server draws is labelled with the best concepts too."""
    given = {"regions": [CAT], "classifier": "clip", "overlay": "png"}
    uploaded = cutout_client.ImageId(client.upload(cat.jpeg).image_id)
    drawn = np.asarray(client.analyze(uploaded, CONCEPTS, **given).overlay())
    np.testing.assert_array_equal(drawn, np.asarray(client.analyze(cat.jpeg, CONCEPTS, **given).overlay(cat.jpeg)))


def test_rewriting(client: Client, words: LanguageModel, cat: Photo):  # noqa: F811
    """A sentence becomes phrases; finds carry them, and the answer says what they were."""
    words.says((0, "yellow"), (0, "brown"))
    result = client.segment_text(cat.jpeg, SENTENCE, rewrite=True)
    assert result.rewriting is not None
    assert [(each.phrase, each.prompt_index) for each in result.rewriting.phrases] == [("yellow", 0), ("brown", 0)]
    assert result.rewriting.failure == ""
    assert result.timings.rewrite_ms > 0
    plain = client.segment_text(cat.jpeg, ["yellow", "brown"])
    assert [each.rle for each in result] == [each.rle for each in plain] != []
    assert set(result.labels) <= {"yellow", "brown"}
    assert {each.prompt_index for each in result} == {0}
    assert plain.rewriting is None
    with client.stream(cat.jpeg, phrases=SENTENCE, rewrite=True) as stream:
        assert same(stream.result(), result)


def test_rewriting_that_fails(client: Client, words: LanguageModel, cat: Photo):  # noqa: F811
    """The plain words are used, and the answer says why."""
    words.status = 503
    result = client.segment_text(cat.jpeg, "brown", rewrite=True)
    assert result.rewriting is not None
    assert result.rewriting.failure == "the language model's server answered with HTTP status 503"
    assert [each.phrase for each in result.rewriting.phrases] == ["brown"]
    assert [each.rle for each in result] == [each.rle for each in client.segment_text(cat.jpeg, "brown")] != []


def test_exemplars(scripted: ScriptedServer, client: Client, cat: Photo):
    """Boxes are wanted, unless they say otherwise; a server without a model that takes any refuses them."""
    with Client(scripted.address) as plain:
        plain.segment_text(cat.jpeg, "visual", exemplars=[CAT, Exemplar(EAR, negative=True)], box_nms_iou=0.5)
        plain.segment_text(cat.jpeg, "visual", exemplars=np.array([CAT, EAR]))
        plain.segment_text(cat.jpeg, "visual", exemplars=Exemplar(CAT))
        plain.segment_text(cat.jpeg, "visual", exemplars=CAT)
    sent = [[(each.box.x_max, each.negative) for each in request.exemplars] for request in scripted.requests]
    assert sent == [[(200, False), (110, True)], [(200, False), (110, False)], [(200, False)], [(200, False)]]
    assert scripted.requests[0].box_nms_iou == 0.5
    assert not scripted.requests[1].HasField("box_nms_iou")
    with pytest.raises(cutout_client.FailedPreconditionError, match=r"^exemplars: .* no model that takes any"):
        client.segment_text(cat.jpeg, "brown", exemplars=[CAT])
    assert not client.model("builtin").exemplars


def test_how_everything_is_looked_for(scripted: ScriptedServer, cat: Photo):
    """The knobs of the official mask generators reach the server."""
    knobs = {
        "points_per_side": 8,
        "predicted_iou_threshold": 0.5,
        "stability_threshold": 0.25,
        "stability_offset": 2.0,
        "box_nms_iou": 0.75,
        "crop_layers": 2,
        "crop_overlap": 0.125,
        "crop_points_downscale": 2,
        "crop_nms_iou": 0.625,
    }
    with Client(scripted.address) as plain:
        plain.segment_everything(cat.jpeg, **knobs, min_area=7)
    [request] = scripted.requests
    assert {name: getattr(request, name) for name in knobs} == knobs
    assert request.options.min_area == 7
