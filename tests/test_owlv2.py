"""OWLv2: boxes, scores and phrases are those of the reference model with its own processor and post-processing."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from asking import Ask, detect
from clip_checkpoints import (  # noqa: F401 - fixtures
    OWL_SIDE,
    clip_tokenizer,
    one_thread,
    owlv2_folder,
    owlv2_tokenizer,
    siglip_folder,
    tame_heads,
)
from cutout_server.errors import FailedPreconditionError, InvalidRequestError
from cutout_server.models.owlv2 import Owlv2
from cutout_server.models.owlv2.pixels import square
from cutout_server.models.protocols import Detector
from cutout_server.models.queries import Detection, DetectQuery
from cutout_server.models.registry import FAMILIES
from cutout_server.types import ModelFiles
from PIL import Image
from sam2_cases import PICTURES
from transformers import Owlv2Config, Owlv2ForObjectDetection, Owlv2ImageProcessor, Owlv2Processor

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_thread", "kept_memory")]

PHRASES = ("cat", "a photo of the astronaut", "Red sofa!", "coffee", "rocket on the launch pad at night")
THRESHOLD = 0.3
PATCHES = (OWL_SIDE // 16) ** 2


def load(folder: Path, device: str = "cpu") -> Owlv2:
    return FAMILIES["owlv2"].load(ModelFiles(folder), device)


@pytest.fixture(scope="module")
def detector(owlv2_folder: Path) -> Owlv2:  # noqa: F811
    return load(owlv2_folder)


@pytest.fixture(scope="module")
def reference(owlv2_folder: Path) -> Callable:  # noqa: F811
    """The reference called as its documentation says, with one picture."""
    return Reference(
        Owlv2ForObjectDetection.from_pretrained(owlv2_folder), Owlv2Processor.from_pretrained(owlv2_folder)
    )


class Reference:
    """Called as its documentation says, with one picture; asked again with another threshold it looks but once."""

    def __init__(self, model: Owlv2ForObjectDetection, processor: Owlv2Processor) -> None:
        self._model = model
        self._processor = processor
        self._asked: tuple[np.ndarray, tuple[str, ...]] | None = None

    def __call__(self, query: Ask) -> dict:
        asked = (query.pixels, query.phrases)
        if self._asked is None or self._asked[0] is not asked[0] or self._asked[1] != asked[1]:
            self._asked = asked
            inputs = self._processor(
                text=[list(query.phrases)], images=Image.fromarray(query.pixels), return_tensors="pt"
            )
            with torch.no_grad():
                self._outputs = self._model(**inputs)
        sizes = [query.pixels.shape[:2]]
        (found,) = self._processor.post_process_grounded_object_detection(
            self._outputs, query.box_threshold, target_sizes=sizes
        )
        return found


def ask(pixels: np.ndarray, *phrases: str, threshold: float = THRESHOLD, text_threshold: float = 0.25) -> Ask:
    return Ask(np.ascontiguousarray(pixels), phrases or PHRASES, threshold, text_threshold)


def assert_equal(detections: list[Detection], expected: dict, query: Ask) -> None:
    """Phrases identical, scores within 1e-5, boxes within 1e-5 of the picture's longer side."""
    assert [found.phrase_index for found in detections] == expected["labels"].tolist()
    np.testing.assert_allclose([found.score for found in detections], expected["scores"], atol=1e-5)
    boxes = np.array([(f.box.x_min, f.box.y_min, f.box.x_max, f.box.y_max) for f in detections]).reshape(-1, 4)
    np.testing.assert_allclose(boxes, expected["boxes"], atol=1e-5 * max(query.pixels.shape))


@pytest.mark.parametrize(  # It is the reference that is slow with large pictures.
    "name", [pytest.param(name, marks=[pytest.mark.slow] if name == "large" else []) for name in PICTURES]
)
def test_equal_to_the_reference(detector: Owlv2, reference: Callable, name: str):
    """Several phrases on one picture: tall, wide, tiny and large; about half of the boxes are above the threshold."""
    image = PICTURES[name]()
    scores = reference(ask(image, threshold=0.0))["scores"].sort().values
    assert len(scores) == PATCHES
    middle = scores[PATCHES // 4 : 3 * PATCHES // 4]
    gap = int(middle.diff().argmax())  # Rounding puts no box on the other side of the widest.
    query = ask(image, threshold=float(middle[gap : gap + 2].mean()))
    (found,) = detect(detector, [query])
    assert_equal(found, reference(query), query)
    assert PATCHES // 4 <= len(found) <= 3 * PATCHES // 4


def test_equal_in_a_batch(detector: Owlv2, reference: Callable):
    """Pictures of all sizes in one pass, each with its own phrases and threshold, one phrase among them."""
    images = [make() for name, make in PICTURES.items() if name != "large"]
    queries = [ask(image, *PHRASES[: index + 1], threshold=0.11 + 0.01 * index) for index, image in enumerate(images)]
    queries += [ask(images[0], "coffee"), ask(images[0], "coffee", threshold=0.999)]
    assert isinstance(detector, Detector)
    answers = detect(detector, queries)
    assert len(answers) == len(queries)
    for query, found in zip(queries, answers, strict=True):
        assert_equal(found, reference(query), query)
    assert all(answers[:-1])
    assert len({each.phrase_index for found in answers for each in found}) >= 3
    assert answers[-1] == []
    assert detect(detector, []) == []


def test_pictures_as_a_gpu_takes_them(detector: Owlv2):
    """Several pictures in one pass of the image tower, as on a GPU, give what they give alone."""
    queries = [ask(PICTURES[name]()) for name in ("tall", "wide", "tiny")]
    with torch.inference_mode():
        seen = detector._look([query.pixels for query in queries])
    together = detector.detect([DetectQuery(each, PHRASES, THRESHOLD, 0.25) for each in seen])
    for found, alone in zip(together, detect(detector, queries), strict=True):
        assert [each.phrase_index for each in found] == [each.phrase_index for each in alone]
        np.testing.assert_allclose([each.score for each in found], [each.score for each in alone], atol=1e-5)


def test_more_phrases_than_one_pass_takes(detector: Owlv2, reference: Callable):
    """The index of each find is that of the caller's phrase, however many there are."""
    query = ask(PICTURES["square"](), *(f"{phrase} {number}" for number in range(30) for phrase in PHRASES[:3]))
    (found,) = detect(detector, [query])
    assert_equal(found, reference(query), query)
    assert max(each.phrase_index for each in found) >= 64


def test_phrases_that_the_model_reads_the_same(detector: Owlv2):
    """Each find is one of all of them, with one box and one score."""
    image = PICTURES["tall"]()
    one, several = detect(detector, [ask(image, "Red sofa!", "cat"), ask(image, "Red sofa!", "cat", "red  sofa !")])
    assert {each.phrase_index for each in several} == {0, 1, 2}
    sofas = [each for each in several if each.phrase_index == 2]
    assert [replace(each, phrase_index=0) for each in sofas] == [each for each in one if each.phrase_index == 0]
    assert [each for each in several if each.phrase_index < 2] == one


def test_text_threshold_means_nothing(detector: Owlv2):
    """A box has one score."""
    image = PICTURES["square"]()
    assert detect(detector, [ask(image, text_threshold=0.99)]) == detect(detector, [ask(image, text_threshold=0.0)])


def test_a_phrase_at_the_limit(detector: Owlv2, reference: Callable):
    """Sixteen tokens are read to the end; one more is refused by name, and so is the mark of the end."""
    image, longest = PICTURES["tiny"](), " ".join("a" * 14)
    query = ask(image, "cat", longest, longest[:-2])
    assert_equal(detect(detector, [query])[0], reference(query), query)
    with pytest.raises(InvalidRequestError, match="at most 16 tokens, start and end included, got 17") as long:
        detect(detector, [ask(image, "cat", f"{longest} a")])
    assert [violation.field for violation in long.value.violations] == ["phrases[1]"]
    with pytest.raises(InvalidRequestError, match="mark of the end"):
        detect(detector, [ask(image, "cat<|endoftext|>dog")])


@pytest.mark.parametrize("side", [96, 960])
@pytest.mark.parametrize(
    "shape", [(1, 1), (1, 40), (3, 5), (2, 962), (961, 3), (960, 960), (1200, 700), (95, 97)], ids=str
)
def test_pixels(side: int, shape: tuple[int, int]):
    """The square is the processor's, enlarged or reduced, but for the rounding of sample positions."""
    image = np.random.default_rng(0).integers(0, 256, (*shape, 3), np.uint8)
    processor = Owlv2ImageProcessor(size={"height": side, "width": side}, do_normalize=False)
    expected = processor(Image.fromarray(image), return_tensors="pt")["pixel_values"][0]
    np.testing.assert_allclose(square(image, side) / 255, expected, atol=5e-5)


def test_a_picture_of_one_line():
    """The processor would lay it on a square of 43 GB."""
    image = np.full((1, 60_000, 3), 200, np.uint8)
    pixels = square(image, 960)
    # The line takes up 960 / 60000 of a line of the square, or less where its middle lies between two samples.
    assert 0 < pixels.max() < 200
    assert not pixels[:, 4:].any()
    assert pixels[:, 0].min() > 0


@pytest.mark.parametrize(
    ("spoil", "expected"),
    [
        (lambda f: (f / "model.safetensors").write_bytes((f / "model.safetensors").read_bytes()[:5000]), "damaged"),
        (lambda f: (f / "config.json").write_text('{"model_type": "owlvit"}'), "'owlvit'; expected 'owlv2'"),
        (lambda f: _edit(f, "size", {"height": 96, "width": 96}), "for another model.*128 x 128"),
        (lambda f: _edit(f, "do_pad", False), "for another model"),
        (lambda f: (f / "processor_config.json").write_text("nonsense"), "no readable Owlv2Processor"),
        (lambda f: clip_tokenizer(more=["newword"]).save_pretrained(f), "of different models"),
    ],
    ids=["truncated", "OWL-ViT", "other size", "no padding", "no processor", "other tokenizer"],
)
def test_broken_folders(owlv2_folder: Path, tmp_path: Path, spoil: Callable, expected: str):  # noqa: F811
    """Each says what is wrong and what to do."""
    copy = Path(shutil.copytree(owlv2_folder, tmp_path / "copy"))
    spoil(copy)
    with pytest.raises(FailedPreconditionError, match=expected):
        load(copy)


def test_another_familys_folder(siglip_folder: Path):  # noqa: F811
    """It is named."""
    with pytest.raises(FailedPreconditionError, match="of model_type 'siglip'; expected 'owlv2'"):
        load(siglip_folder)


def _edit(folder: Path, key: str, value: object) -> None:
    path = folder / "processor_config.json"
    content = json.loads(path.read_text())
    content["image_processor"][key] = value
    path.write_text(json.dumps(content))


@pytest.mark.full_size(gigabytes=3)
def test_base_patch_16(tmp_path: Path):
    """The published size is loaded whole, 155 million parameters; with two of its twelve layers equal to the reference.

    Those are as wide as published, with 960 pixels and 3600 boxes; the other ten are these again.
    """
    torch.manual_seed(0)
    vision = {"image_size": 960, "patch_size": 16}
    model = Owlv2ForObjectDetection(Owlv2Config(vision_config=vision)).eval()
    tame_heads(model)
    processor = Owlv2Processor(Owlv2ImageProcessor(), owlv2_tokenizer())
    processor.save_pretrained(tmp_path)
    model.save_pretrained(tmp_path)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    assert 150_000_000 < parameters < 160_000_000
    assert 4 * parameters <= load(tmp_path).nbytes < 4.01 * parameters

    for part in (model.owlv2.vision_model, model.owlv2.text_model):
        part.encoder.layers = part.encoder.layers[:2]
        part.config.num_hidden_layers = 2
    model.save_pretrained(tmp_path)
    query = ask(PICTURES["wide"](), threshold=0.0)
    (found,) = detect(load(tmp_path), [query])
    assert len(found) == 3600
    assert np.ptp([each.score for each in found]) > 0.1
    assert_equal(found, Reference(model, processor)(query), query)
