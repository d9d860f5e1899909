"""CLIP, SigLIP and SigLIP 2: features and scores are those of the reference models with their own processors."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from clip_checkpoints import (  # noqa: F401 - fixtures
    clip_folder,
    clip_tokenizer,
    one_thread,
    siglip2_folder,
    siglip_folder,
)
from cutout_server.errors import FailedPreconditionError, InvalidRequestError
from cutout_server.models.clip import Clip
from cutout_server.models.protocols import Classifier
from cutout_server.models.registry import FAMILIES
from cutout_server.models.runtime import EXACT
from cutout_server.types import ModelFiles
from PIL import Image
from safetensors.torch import load_file, save_file
from sam2_cases import PICTURES
from transformers import (
    AutoModel,
    AutoProcessor,
    AutoTokenizer,
    CLIPConfig,
    CLIPImageProcessor,
    CLIPModel,
    CLIPProcessor,
)
from waiting import at_little_cost

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_thread")]

FOLDERS = ("clip_folder", "siglip_folder", "siglip2_folder")
# The documented arguments of each one's processor; what its documentation says matters for SigLIP.
TEXT_ARGUMENTS = {
    "clip_folder": {"padding": True},
    "siglip_folder": {"padding": "max_length"},
    "siglip2_folder": {"padding": "max_length", "max_length": 64},
}
TEXTS = [
    "a photo of a cat.",
    "coffee",
    "The Astronaut's orange suit, seen from the left!",
    "rocket \u00e9t\u00e9 \u732b \U0001f680",
    "a",
]
SHAPES = ((1, 1), (3, 1), (1, 3), (3, 40), (40, 3), (64, 64), (65, 63), (200, 31), (5, 1024))


def load(folder: Path, device: str = "cpu") -> Clip:
    return FAMILIES["clip"].load(ModelFiles(folder), device, EXACT)


@pytest.fixture(params=FOLDERS)
def folder(request: pytest.FixtureRequest) -> Path:
    return request.getfixturevalue(request.param)


@pytest.fixture
def reference(request: pytest.FixtureRequest, folder: Path) -> Callable:
    """The reference called as its documentation says."""
    model, processor = AutoModel.from_pretrained(folder), AutoProcessor.from_pretrained(folder)
    arguments = TEXT_ARGUMENTS[request.node.callspec.params["folder"]]

    def call(images: list[np.ndarray], texts: list[str]):
        pictures = [Image.fromarray(image) for image in images]
        with torch.no_grad():
            return model(**processor(text=texts, images=pictures, return_tensors="pt", **arguments))

    return call


def softmax(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)


def unit(features: np.ndarray) -> np.ndarray:
    return features / np.linalg.norm(features, axis=-1, keepdims=True)


def random_picture(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(height * width).integers(0, 256, (height, width, 3), np.uint8)


def test_equal_to_the_reference(folder: Path, reference: Callable):
    """Picture features, text features and scores of many at once, pictures tall, wide, tiny and large."""
    images = [np.ascontiguousarray(make()) for make in PICTURES.values()]
    expected = reference(images, TEXTS)
    classifier = load(folder)
    assert isinstance(classifier, Classifier)
    pictures, texts = np.stack(classifier.embed_pictures(images)), np.stack(classifier.embed_texts(TEXTS))
    assert pictures.dtype == texts.dtype == np.float32
    np.testing.assert_allclose(pictures, expected.image_embeds, atol=1e-5)
    np.testing.assert_allclose(unit(texts), expected.text_embeds, atol=1e-5)
    scores = softmax(pictures @ texts.T)
    np.testing.assert_allclose(scores, expected.logits_per_image.softmax(-1), atol=1e-5)
    assert scores.max(axis=1).min() < 0.95
    assert np.ptp(scores, axis=0).max() > 0.1  # Pictures differ, and so do texts.
    assert np.ptp(scores, axis=1).max() > 0.1


def test_a_dot_product_is_the_logit(clip_folder: Path):  # noqa: F811
    """The text's features carry the logit's scale; CLIP's logits come out as they are, with no bias to miss."""
    image = PICTURES["square"]()
    model, processor = CLIPModel.from_pretrained(clip_folder), CLIPProcessor.from_pretrained(clip_folder)
    with torch.no_grad():
        inputs = processor(text=TEXTS, images=Image.fromarray(image), return_tensors="pt", padding=True)
        expected = model(**inputs).logits_per_image[0]
    classifier = load(clip_folder)
    logits = np.stack(classifier.embed_texts(TEXTS)) @ classifier.embed_pictures([image])[0]
    np.testing.assert_allclose(logits, expected, atol=1e-4)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_shapes(folder: Path, reference: Callable, shape: tuple[int, int]):
    """One picture, of any shape: pictures three pixels high are not taken for channels."""
    image = random_picture(*shape)
    np.testing.assert_allclose(
        load(folder).embed_pictures([image])[0], reference([image], TEXTS).image_embeds[0], atol=1e-5
    )


@pytest.mark.parametrize("shape", [(1, 301), (2, 1000), (3001, 7), (5, 1999), (2600, 10)], ids=str)
def test_very_narrow_pictures(folder: Path, reference: Callable, shape: tuple[int, int]):
    """Cutting the ends off before scaling up changes nothing beyond a rounding of single pixels."""
    image = random_picture(*shape)
    np.testing.assert_allclose(
        load(folder).embed_pictures([image])[0], reference([image], TEXTS).image_embeds[0], atol=1e-4
    )


def test_an_extremely_narrow_picture_is_cheap(folder: Path):
    """The reference would take 64 x 19200000 pixels for it."""
    classifier = load(folder)
    image = random_picture(1, 300_000)
    with at_little_cost():
        (features,) = classifier.embed_pictures([image])
    assert np.linalg.norm(features) == pytest.approx(1, abs=1e-5)


def test_company_changes_nothing(folder: Path):
    """Alone, in a small batch and in several passes, a picture and a text have the same features."""
    classifier = load(folder)
    images = [random_picture(20 + i, 90 - i) for i in range(35)]
    texts = [f"{TEXTS[i % 5]} {i}" for i in range(35)]
    for many, one in (
        (classifier.embed_pictures(images), [classifier.embed_pictures([image])[0] for image in images]),
        (classifier.embed_texts(texts), [classifier.embed_texts([text])[0] for text in texts]),
    ):
        assert len(many) == 35
        np.testing.assert_allclose(many, one, atol=1e-4)
        assert all(features.base is None for features in many)  # None keeps the memory of the others.
    assert classifier.embed_pictures([]) == []
    assert classifier.embed_texts([]) == []


def test_pictures_that_must_not_be_written_to(folder: Path):
    """Read-only pixels, and crops of a larger picture, need no copy by the caller."""
    image = PICTURES["square"]()
    crop = image[100:180, 50:250]
    expected = load(folder).embed_pictures([crop.copy()])
    image.flags.writeable = False
    np.testing.assert_array_equal(load(folder).embed_pictures([crop]), expected)


def test_the_longest_text_is_read_to_its_end(folder: Path, reference: Callable, request: pytest.FixtureRequest):
    """At the limit a text is as the reference reads it; one token more is refused, and so is the mark of the end."""
    limit = 77 if request.node.callspec.params["folder"] == "clip_folder" else 64
    tokenizer = AutoTokenizer.from_pretrained(folder)
    text = "a"
    while len(tokenizer(text)["input_ids"]) < limit:
        text += " a"
    assert len(tokenizer(text)["input_ids"]) == limit
    expected = reference([PICTURES["tiny"]()], [text, text[:-2]]).text_embeds.numpy()
    classifier = load(folder)
    np.testing.assert_allclose(unit(np.stack(classifier.embed_texts([text, text[:-2]]))), expected, atol=1e-5)
    assert np.abs(expected[0] - expected[1]).max() > 1e-4
    with pytest.raises(InvalidRequestError, match=f"at most {limit} tokens.*got {limit + 1}") as long:
        classifier.embed_texts(["cat", f"{text} a"])
    assert [violation.field for violation in long.value.violations] == ["concepts"]
    with pytest.raises(InvalidRequestError, match="mark of the end"):
        classifier.embed_texts([f"a cat {tokenizer.eos_token} a dog"])


def copy_of(folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(folder, tmp_path / "copy"))


def test_buffers_of_older_checkpoints(clip_folder: Path, tmp_path: Path):  # noqa: F811
    """The published CLIP files hold position_ids, which newer models compute."""
    copy = copy_of(clip_folder, tmp_path)
    weights = load_file(copy / "model.safetensors")
    weights["text_model.embeddings.position_ids"] = torch.arange(77)[None]
    weights["vision_model.embeddings.position_ids"] = torch.arange(17)[None]
    save_file(weights, copy / "model.safetensors", {"format": "pt"})
    np.testing.assert_array_equal(load(copy).embed_texts(TEXTS), load(clip_folder).embed_texts(TEXTS))


@pytest.mark.parametrize(
    ("spoil", "expected"),
    [
        (lambda f: (f / "model.safetensors").write_bytes((f / "model.safetensors").read_bytes()[:5000]), "damaged"),
        (lambda f: (f / "model.safetensors").unlink(), "cannot be loaded"),
        (lambda f: (f / "config.json").write_text('{"model_type": "siglip2"}'), "'siglip2'; expected 'clip' or 'sig"),
        (lambda f: (f / "config.json").write_text("<html>"), "no readable config.json"),
        (lambda f: (f / "tokenizer.json").write_text("{}"), "no readable AutoProcessor"),
        (lambda f: _edit(f, lambda c: c["text_config"].update(hidden_size=16)), r"does not fit its config\.json"),
        (lambda f: _edit(f, lambda c: c["text_config"].update(vocab_size=50)), r"does not fit its config\.json"),
        (lambda f: clip_tokenizer().save_pretrained(f), None),
    ],
    ids=["truncated", "missing", "other family", "web page", "tokenizer", "other width", "other vocabulary", "whole"],
)
def test_broken_folders(clip_folder: Path, tmp_path: Path, spoil: Callable, expected: str | None):  # noqa: F811
    """Each says what is wrong and what to do."""
    copy = copy_of(clip_folder, tmp_path)
    spoil(copy)
    if expected is None:
        load(copy)
        return
    with pytest.raises(FailedPreconditionError, match=expected):
        load(copy)


def test_another_models_tokenizer(clip_folder: Path, tmp_path: Path):  # noqa: F811
    """A tokenizer with more tokens than the model knows is refused before it can point past the embeddings."""
    copy = copy_of(clip_folder, tmp_path)
    clip_tokenizer(more=["newword"]).save_pretrained(copy)
    with pytest.raises(FailedPreconditionError, match="of different models"):
        load(copy)


def _edit(folder: Path, change: Callable[[dict], object]) -> None:
    path = folder / "config.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


@pytest.mark.full_size(gigabytes=3)
def test_vit_b_32(tmp_path: Path):
    """The published size: 151 million parameters, 224 pixels, 512 features; equal to the reference."""
    torch.manual_seed(0)
    tokenizer = clip_tokenizer(model_max_length=77)
    marks = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    model = CLIPModel(CLIPConfig(text_config=marks)).eval()
    assert sum(parameter.numel() for parameter in model.parameters()) == 151_277_313
    model.save_pretrained(tmp_path)
    processor = CLIPProcessor(CLIPImageProcessor(), tokenizer)
    processor.save_pretrained(tmp_path)
    classifier = load(tmp_path)
    assert 4 * 151_277_313 <= classifier.nbytes < 4 * 151_277_313 + 10_000
    images = [make() for name, make in PICTURES.items() if name != "large"]
    pictures, texts = classifier.embed_pictures(images), classifier.embed_texts(TEXTS)
    assert [features.shape for features in pictures] == [(512,)] * len(images)
    with torch.no_grad():
        pillow = [Image.fromarray(image) for image in images]
        expected = model(**processor(text=TEXTS, images=pillow, return_tensors="pt", padding=True))
    np.testing.assert_allclose(pictures, expected.image_embeds, atol=1e-5)
    np.testing.assert_allclose(np.stack(pictures) @ np.stack(texts).T, expected.logits_per_image, atol=1e-3)
