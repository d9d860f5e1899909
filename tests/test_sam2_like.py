"""The tracker of SAM 3, and EdgeTAM, answer as transformers' own processors and models do on the same folders."""

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from cutout_common.masks import rle_decode
from cutout_server.models import edgetam, sam3
from cutout_server.models.protocols import GridSegmenter, Segmenter
from cutout_server.models.queries import Candidates, DecodeQuery, MaskFilter, MaskQuery, PointQuery
from cutout_server.models.sam2_like import Sam2Like
from cutout_server.types import Box, ModelFiles, ObjectPrompt
from edgetam_checkpoints import edgetam_folder  # noqa: F401 - a fixture
from sam2_cases import KINDS, PICTURES
from sam2_like_reference import Reference, edgetam_reference, sam3_reference
from sam3_checkpoints import sam3_folder  # noqa: F401 - a fixture

pytestmark = pytest.mark.slow


@dataclass(frozen=True)
class Bench:
    """One model in both implementations."""

    ours: Sam2Like
    reference: Reference


@pytest.fixture(scope="module", params=["sam3", "edgetam"])
def bench(request: pytest.FixtureRequest) -> Bench:
    folder = request.getfixturevalue(f"{request.param}_folder")
    module, reference = {"sam3": (sam3, sam3_reference), "edgetam": (edgetam, edgetam_reference)}[request.param]
    return Bench(module.load(ModelFiles(folder), "cpu"), reference(folder))


def earlier() -> np.ndarray:
    """Logits of a mask prompt: a disc."""
    rows, columns = np.mgrid[:256, :256]
    return (40 - 0.6 * np.hypot(rows - 90, columns - 120)).astype(np.float32)


def full_size(model: Sam2Like, query: DecodeQuery, candidates: Candidates) -> np.ndarray:
    queries = [MaskQuery(query.embedding, logits, 0.0) for logits in candidates.logits]
    return np.stack([patch.whole() for patch in model.masks(queries)])


def assert_same(model: Sam2Like, query: DecodeQuery, candidates: Candidates, upscaled, scores, logits) -> None:
    assert candidates.predicted_iou.dtype == candidates.logits.dtype == np.float32
    np.testing.assert_allclose(candidates.predicted_iou, scores, rtol=0, atol=1e-4)
    np.testing.assert_allclose(candidates.logits, logits, rtol=1e-5, atol=1e-4)
    differs = full_size(model, query, candidates) != (upscaled > 0)
    assert np.abs(upscaled[differs]).max(initial=0) < 1e-3
    assert np.count_nonzero(differs) <= 3


@pytest.mark.parametrize("multimask", [True, False])
@pytest.mark.parametrize(
    ("picture", "kind"),
    [("square", kind) for kind in KINDS]
    + [(name, kind) for name in list(PICTURES)[1:] for kind in ("point", "box and points", "mask")],
)
def test_a_prompt_is_answered_as_by_transformers(bench, picture, kind, multimask):
    """Masks are the same but for 3 pixels at most; scores and logits agree to 1e-4."""
    image = PICTURES[picture]()
    prompt = KINDS[kind](image.shape[:2], earlier()).prompt
    (embedding,) = bench.ours.encode([image])
    query = DecodeQuery(embedding, prompt, multimask)
    upscaled, scores, logits = bench.reference(image, [prompt], multimask)
    assert logits.shape == (1, 3 if multimask else 1, 64, 64)
    assert_same(bench.ours, query, bench.ours.decode([query])[0], upscaled[0], scores[0], logits[0])


@pytest.mark.parametrize("multimask", [True, False])
def test_many_objects_are_answered_as_by_transformers(bench, multimask):
    """Boxes of one picture share a call, masks and boxes too; all are answered as alone, in their order."""
    image = PICTURES["wide"]()
    boxes = [Box(20, 30, 200, 150), Box(100, 10, 400, 90), Box(0, 0, 640, 160)]
    prompts = [ObjectPrompt(box=box) for box in boxes]
    (embedding,) = bench.ours.encode([image])
    queries = [DecodeQuery(embedding, prompt, multimask) for prompt in prompts]
    for query, candidates, *expected in zip(
        queries, bench.ours.decode(queries), *bench.reference(image, prompts, multimask), strict=True
    ):
        assert_same(bench.ours, query, candidates, *expected)
    discs = [np.roll(earlier(), shift, axis=1) for shift in (0, 60, -90)]
    refined = [
        DecodeQuery(embedding, ObjectPrompt(box=box, logits=disc), multimask)
        for box, disc in zip(boxes, discs, strict=True)
    ]
    for query, candidates in zip(refined, bench.ours.decode(refined), strict=True):
        upscaled, scores, logits = bench.reference(image, [query.prompt], multimask)
        assert_same(bench.ours, query, candidates, upscaled[0], scores[0], logits[0])


def test_answers_are_plentiful(bench):
    """The weights under test are no constant: masks differ by prompt, and most cover a part of the picture."""
    image = PICTURES["square"]()
    (embedding,) = bench.ours.encode([image])
    prompts = [KINDS[kind](image.shape[:2], earlier()).prompt for kind in ("point", "box", "box and points", "mask")]
    prompts.append(ObjectPrompt(points=np.array([[400, 450]], np.float32), labels=np.ones(1, np.int32)))
    queries = [DecodeQuery(embedding, prompt, multimask=True) for prompt in prompts]
    answers = bench.ours.decode(queries)
    masks = [full_size(bench.ours, query, answer) for query, answer in zip(queries, answers, strict=True)]
    assert all(np.count_nonzero((shares > 0.05) & (shares < 0.95)) >= 2 for shares in (m.mean((1, 2)) for m in masks))
    assert all((one != other).mean() > 0.005 for i, one in enumerate(masks) for other in masks[:i])


def test_pictures_of_many_sizes_share_a_batch(bench):
    """Each embedding is what it is alone, owns its memory, and serves the narrowest pictures too."""
    pictures = [PICTURES["tall"](), PICTURES["tiny"](), np.full((1, 5000, 3), 80, np.uint8)]
    sides = (64, 32, 16)
    for picture, embedding in zip(pictures, bench.ours._embed(pictures), strict=True):
        (alone,) = bench.ours.encode([picture])
        for one, other in zip(embedding.levels, alone.levels, strict=True):
            torch.testing.assert_close(one, other, rtol=0, atol=1e-4)
        assert [level.shape[-1] for level in embedding.levels] == list(sides)
        # SAM 3 keeps the backbone's features beside the tracker's levels, for words.
        features = getattr(embedding, "features", torch.empty(0))
        kept = [*embedding.levels, features]
        assert embedding.nbytes == alone.nbytes == sum(4 * part.numel() for part in kept)
        assert embedding.image_size == picture.shape[:2]


def test_a_grid_is_sifted_as_prompts_are_decoded(bench):
    """Its masks are those of the prompts, measured at the picture's size."""
    image = PICTURES["tall"]()
    (embedding,) = bench.ours.encode([image])
    mask_filter = MaskFilter(mask_threshold=0.0, predicted_iou=0.0, stability_score=0.0, stability_offset=0.1)
    spots = [(30.0, 40.0), (80.0, 220.0)]
    filtered = bench.ours.filtered_masks([PointQuery(embedding, spot, mask_filter, with_logits=True) for spot in spots])
    label = np.ones(1, np.int32)
    prompts = [ObjectPrompt(points=np.array([spot], np.float32), labels=label) for spot in spots]
    queries = [DecodeQuery(embedding, prompt, multimask=True) for prompt in prompts]
    for found, query, candidates in zip(filtered, queries, bench.ours.decode(queries), strict=True):
        for one, mask, logits, iou in zip(
            found.kept,
            full_size(bench.ours, query, candidates),
            candidates.logits,
            candidates.predicted_iou,
            strict=True,
        ):
            decoded = rle_decode(one.mask.height, one.mask.width, one.mask.counts)
            assert np.count_nonzero(decoded != mask) <= 3
            np.testing.assert_array_equal(one.logits, logits)
            assert one.predicted_iou == pytest.approx(float(iou), abs=1e-6)
            assert 0 < one.stability_score < 1


def test_it_is_a_segmenter_and_a_sifter(bench):
    """It fills in both Protocols, and refuses foreign embeddings."""
    assert isinstance(bench.ours, Segmenter)
    assert isinstance(bench.ours, GridSegmenter)

    class Foreign:
        image_size = (5, 5)
        nbytes = 0

    with pytest.raises(TypeError, match="Foreign"):
        bench.ours.decode([DecodeQuery(Foreign(), ObjectPrompt(box=Box(0, 0, 4, 4)), multimask=False)])
