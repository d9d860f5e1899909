"""SAM 3 finds concepts as `Sam3Model` does with its processor on the same folder."""

# ruff: noqa: F811 - fixtures are imported

import gc
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from cutout_server.errors import InvalidRequestError
from cutout_server.models.pretrained import nbytes
from cutout_server.models.protocols import Segmenter, TextSegmenter
from cutout_server.models.queries import MaskQuery, TextFind, TextQuery
from cutout_server.models.sam3 import Sam3, load
from cutout_server.types import Box, Exemplar, ModelFiles
from sam2_cases import PICTURES
from sam3_checkpoints import sam3_folder  # noqa: F401 - a fixture
from sam3_reference import Instance, Reference
from transformers import Sam3Model, Sam3Processor, Sam3TrackerVideoModel

pytestmark = pytest.mark.slow

THRESHOLD = 0.2
PHRASES = ("cat", "a red sofa", "the astronaut in an orange suit")
SIZES = [*PICTURES, "thin"]


@pytest.fixture(scope="module")
def ours(sam3_folder) -> Sam3:
    return load(ModelFiles(sam3_folder), "cpu")


@pytest.fixture(scope="module")
def grouped(ours, sam3_folder) -> Sam3:
    """The same, with as many phrases in a pass as a GPU gets."""
    parts = (ours._backbone, ours._concepts.model, ours._model)
    return Sam3(*parts, Sam3Processor.from_pretrained(sam3_folder), ours._tracker, phrases_per_pass=4)


@pytest.fixture(scope="module")
def reference(sam3_folder) -> Reference:
    return Reference(sam3_folder)


def in_company(image: np.ndarray) -> int:
    """How many pixels of a border may differ by rounding, which a pass of several phrases does in another order."""
    return 4 + image.shape[0] * image.shape[1] // 100_000


def picture(name: str) -> np.ndarray:
    return np.full((1, 3000, 3), 80, np.uint8) if name == "thin" else PICTURES[name]()


def exemplars(image: np.ndarray, kind: str) -> tuple[Exemplar, ...]:
    """Boxes in shares of the picture."""
    height, width = image.shape[:2]
    boxes = [
        Exemplar(Box(x * width, y * height, (x + 0.4) * width, (y + 0.3) * height), positive)
        for x, y, positive in ((0.1, 0.2, True), (0.5, 0.6, False), (0.3, 0.1, True))
    ]
    return {"none": (), "positive": (boxes[0],), "negative": (boxes[1],), "several": tuple(boxes)}[kind]


def assert_same(
    model: Sam3, image: np.ndarray, finds: Sequence[TextFind], expected: Sequence[Instance], most_pixels: int = 3
) -> None:
    height, width = image.shape[:2]
    patches = model.masks([MaskQuery(find.embedding, find.logits, 0.0) for find in finds])
    masks = [patch.whole() for patch in patches]
    for find, mask, instance in zip(finds, masks, expected, strict=True):
        corners = np.array([find.box.x_min, find.box.y_min, find.box.x_max, find.box.y_max])
        sides = [width, height, width, height]
        np.testing.assert_allclose(corners / sides, np.array(instance.box) / sides, rtol=0, atol=1e-4)
        assert find.score == pytest.approx(instance.score, abs=1e-4)
        assert mask.shape == (height, width)
        assert mask.dtype == np.bool_
        assert np.count_nonzero(mask != instance.mask) <= most_pixels


@pytest.mark.parametrize("kind", ["none", "positive", "negative", "several"])
def test_phrases_are_found_as_by_transformers(ours, grouped, reference, kind):
    """Of pictures square, wide, tall, tiny and large: alone, to 3 pixels, and in company."""
    images = [picture(name) for name in SIZES]
    embeddings = ours.encode(images)
    queries = [
        TextQuery(embedding, PHRASES, THRESHOLD, exemplars(image, kind))
        for image, embedding in zip(images, embeddings, strict=True)
    ]
    found = [
        [reference(image, phrase, THRESHOLD, query.exemplars) for phrase in PHRASES]
        for image, query in zip(images, queries, strict=True)
    ]
    assert sum(len(each) for of_one in found for each in of_one) > 50
    for model in (ours, grouped):
        for image, finds, expected in zip(images, model.segment_text(queries), found, strict=True):
            assert [find.phrase_index for find in finds] == sorted(find.phrase_index for find in finds)
            for index, each in enumerate(expected):
                own = [find for find in finds if find.phrase_index == index]
                assert_same(model, image, own, each, 3 if model is ours else in_company(image))


def test_answers_are_plentiful(reference):
    """The weights under test are no constant: masks and scores differ by picture, phrase and exemplars."""
    images = [PICTURES["square"](), np.ascontiguousarray(PICTURES["square"]()[:, ::-1])]
    answers = [
        reference(image, phrase, 0.0, exemplars(image, kind))
        for image in images
        for phrase in PHRASES
        for kind in ("none", "positive", "negative")
    ]
    assert all(0.02 < np.mean([instance.mask.mean() for instance in answer]) < 0.9 for answer in answers)
    for index, one in enumerate(answers):
        for other in answers[:index]:
            assert max(abs(a.score - b.score) for a, b in zip(one, other, strict=True)) > 0.01
            assert max((a.mask != b.mask).mean() for a, b in zip(one, other, strict=True)) > 0.01


def test_exemplars_alone_are_the_phrase_visual(ours, reference):
    """As the processor has it when it gets no text."""
    image = PICTURES["square"]()
    given = exemplars(image, "several")
    (finds,) = ours.segment_text([TextQuery(*ours.encode([image]), ("visual",), 0.1, given)])
    expected = reference(image, None, 0.1, given)
    assert expected
    assert_same(ours, image, finds, expected)


def test_queries_with_and_without_exemplars_share_a_call(grouped, reference):
    """Each is answered as it is alone; a phrase of two queries is read once and means the same."""
    images = [PICTURES[name]() for name in ("square", "square", "wide")]
    square, wide = grouped.encode(images[1:])
    queries = [TextQuery(square, PHRASES[:2], THRESHOLD, exemplars(images[0], kind)) for kind in ("several", "none")]
    queries.append(TextQuery(wide, PHRASES[1:], 0.1, exemplars(images[2], "several")))
    for image, query, finds in zip(images, queries, grouped.segment_text(queries), strict=True):
        for index, phrase in enumerate(query.phrases):
            expected = reference(image, phrase, query.box_threshold, query.exemplars)
            own = [find for find in finds if find.phrase_index == index]
            assert_same(grouped, image, own, expected, in_company(image))


def test_the_mask_threshold_is_of_logits(ours):
    """Zero is a probability of one half; a higher one leaves a smaller mask."""
    image = PICTURES["square"]()
    (find, *_), *_ = ours.segment_text([TextQuery(*ours.encode([image]), PHRASES, THRESHOLD)])
    patches = ours.masks([MaskQuery(find.embedding, find.logits, each) for each in (-2.0, 0.0, 2.0)])
    low, middle, high = (patch.whole() for patch in patches)
    assert low.sum() > middle.sum() > high.sum() > 0
    assert (low >= middle).all()
    assert (middle >= high).all()


def test_nothing_found_is_no_error(ours):
    """Scores that do not exceed the threshold are no finds."""
    assert ours.segment_text([TextQuery(*ours.encode([PICTURES["square"]()]), PHRASES, 1.0)]) == [[]]
    assert ours.segment_text([]) == []


@pytest.mark.parametrize("phrase", ["cat " * 40, "a <|endoftext|> cat"])
def test_a_phrase_that_cannot_be_read_is_refused(ours, phrase):
    """One of more than 32 tokens, or one with the mark of the end; nothing is cut off in silence."""
    (embedding,) = ours.encode([PICTURES["tiny"]()])
    with pytest.raises(InvalidRequestError) as caught:
        ours.segment_text([TextQuery(embedding, ("cat", phrase), 0.5)])
    assert [violation.field for violation in caught.value.violations] == ["phrases[1]"]


def test_it_is_a_segmenter_by_text_and_by_prompts(ours, sam3_folder):
    """It fills in both Protocols; what the halves share counts once."""
    assert isinstance(ours, TextSegmenter)
    assert isinstance(ours, Segmenter)
    reference = Sam3Model.from_pretrained(sam3_folder), Sam3TrackerVideoModel.from_pretrained(sam3_folder)
    backbone, detector, tracker = map(nbytes, (reference[0].vision_encoder.backbone, *reference))
    assert ours.nbytes == detector + tracker - backbone


def test_nothing_of_a_picture_stays(sam3_folder):
    """No tensor lives on in a cache of transformers when the model is gone."""
    before = {id(tensor) for tensor in tensors()}
    model = load(ModelFiles(sam3_folder), "cpu")
    model.segment_text([TextQuery(*model.encode([PICTURES["square"]()]), PHRASES, THRESHOLD)])
    del model
    assert sum(tensor.nbytes for tensor in tensors() if id(tensor) not in before) < 4096


def tensors() -> list[torch.Tensor]:
    """All that live in this process."""
    gc.collect()
    return [each for each in gc.get_objects() if issubclass(type(each), torch.Tensor)]
