"""SAM 1 answers as the official predictor does on the same weights."""

# ruff: noqa: F811 - a fixture is imported

import weakref
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from cutout_server.models.protocols import GridSegmenter, Segmenter
from cutout_server.models.queries import Candidates, DecodeQuery, MaskFilter, MaskQuery, PointQuery
from cutout_server.models.sam import Sam, load
from cutout_server.models.upscale import Levels
from cutout_server.types import Box, ModelFiles, ObjectPrompt
from sam2_cases import KINDS, PICTURES, Case, points
from sam_checkpoints import official_model, official_predictor, sam_checkpoint, write_sam  # noqa: F401
from segment_anything import SamPredictor, sam_model_registry

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("kept_memory")]


@dataclass(frozen=True)
class Bench:
    """One picture in both implementations."""

    embedding: object
    predictor: SamPredictor
    earlier: np.ndarray

    def case(self, kind: str) -> Case:
        return KINDS[kind](self.embedding.image_size, self.earlier)


@pytest.fixture(scope="module")
def official(sam_checkpoint) -> torch.nn.Module:
    return official_model(sam_checkpoint)


@pytest.fixture(scope="module")
def ours(sam_checkpoint) -> Sam:
    return load(ModelFiles(sam_checkpoint), "cpu")


@pytest.fixture(scope="module")
def benches(official, ours) -> dict[str, Bench]:
    made = {}
    for name, make in PICTURES.items():
        predictor = official_predictor(official, make())
        arguments = points(make().shape[:2], (0.5, 0.5, 1)).arguments
        earlier = predictor.predict(**arguments, multimask_output=False)[2][0]
        made[name] = Bench(ours.encode([make()])[0], predictor, earlier)
    return made


def full_size(model: Sam, query: DecodeQuery, candidates: Candidates, threshold: float = 0.0) -> np.ndarray:
    queries = [MaskQuery(query.embedding, logits, threshold) for logits in candidates.logits]
    return np.stack([patch.whole() for patch in model.masks(queries)])


def assert_same(model: Sam, query: DecodeQuery, candidates: Candidates, expected) -> None:
    """`expected` is what `predict` gives with return_logits, so that its masks are `expected[0] > 0`."""
    upscaled, scores, logits = expected
    assert candidates.predicted_iou.dtype == candidates.logits.dtype == np.float32
    np.testing.assert_allclose(candidates.predicted_iou, scores, rtol=0, atol=1e-4)
    np.testing.assert_allclose(candidates.logits, logits, rtol=1e-5, atol=1e-4)
    differs = full_size(model, query, candidates) != (upscaled > 0)
    # Where the last bits are rounded otherwise a pixel on the threshold may turn.
    assert np.abs(upscaled[differs]).max(initial=0) < 2e-3
    assert np.count_nonzero(differs) <= 3


@pytest.mark.parametrize("multimask", [True, False])
@pytest.mark.parametrize(
    ("picture", "kind"),
    [("square", kind) for kind in KINDS]
    + [(name, kind) for name in list(PICTURES)[1:] for kind in ("point", "box and points", "mask")],
)
def test_a_prompt_is_answered_as_by_the_predictor(ours, benches, picture, kind, multimask):
    """Masks are the same but for 3 pixels at most; scores and logits agree to 1e-4, and are not clamped."""
    bench, case = benches[picture], benches[picture].case(kind)
    query = DecodeQuery(bench.embedding, case.prompt, multimask)
    expected = bench.predictor.predict(**case.arguments, multimask_output=multimask, return_logits=True)
    assert_same(ours, query, ours.decode([query])[0], expected)


def test_embeddings_are_the_predictors_to_the_bit(ours, benches):
    """Preprocessing is the same, whatever the picture's size; alone or in company."""
    together = ours.encode([make() for make in PICTURES.values()])
    for embedding, bench in zip(together, benches.values(), strict=True):
        assert torch.equal(embedding.features, bench.predictor.features)
        assert torch.equal(embedding.features, bench.embedding.features)
        assert embedding.nbytes == embedding.features.nbytes


def test_prompts_matter(ours, benches):
    """The weights under test are no constant: every kind of prompt gets other masks."""
    bench = benches["square"]
    queries = [DecodeQuery(bench.embedding, bench.case(kind).prompt, multimask=True) for kind in KINDS]
    masks = [full_size(ours, query, answer) for query, answer in zip(queries, ours.decode(queries), strict=True)]
    assert all((one != other).mean() > 0.002 for i, one in enumerate(masks) for other in masks[:i])


@pytest.mark.parametrize("multimask", [True, False])
def test_several_boxes_are_answered_as_by_the_predictor(ours, benches, multimask):
    """Boxes on one picture share a call, as in `predict_torch`."""
    bench = benches["wide"]
    boxes = np.array([[20, 30, 200, 150], [100, 10, 400, 90], [0, 0, 640, 160]], np.float32)
    queries = [DecodeQuery(bench.embedding, ObjectPrompt(box=Box(*map(float, b))), multimask) for b in boxes]
    moved = torch.from_numpy(bench.predictor.transform.apply_boxes(boxes, bench.embedding.image_size)).float()
    expected = bench.predictor.predict_torch(None, None, moved, multimask_output=multimask, return_logits=True)
    for query, candidates, *each in zip(queries, ours.decode(queries), *(e.numpy() for e in expected), strict=True):
        assert_same(ours, query, candidates, each)


def test_prompts_of_all_kinds_and_pictures_may_share_a_call(ours, benches):
    """Answers come in the order of the questions, and each is what it is alone."""
    queries = [
        DecodeQuery(bench.embedding, bench.case(kind).prompt, multimask)
        for kind in KINDS
        for multimask in (True, False)
        for bench in (benches["square"], benches["tall"])
    ]
    for query, candidates in zip(queries, ours.decode(queries), strict=True):
        assert candidates.logits.shape == (3 if query.multimask else 1, 256, 256)
        (alone,) = ours.decode([query])
        np.testing.assert_allclose(candidates.logits, alone.logits, rtol=1e-4, atol=1e-3)
        np.testing.assert_allclose(candidates.predicted_iou, alone.predicted_iou, rtol=0, atol=1e-5)


@pytest.mark.parametrize("threshold", [-3.5, 2.0])
def test_the_threshold_is_the_callers(ours, benches, threshold):
    """Masks are what exceeds the threshold in the predictor's own upscaled logits."""
    bench = benches["wide"]
    query = DecodeQuery(bench.embedding, bench.case("box").prompt, multimask=False)
    masks = full_size(ours, query, ours.decode([query])[0], threshold)
    logits = bench.predictor.predict(**bench.case("box").arguments, multimask_output=False, return_logits=True)[0]
    assert np.count_nonzero(masks != (logits > threshold)) <= 1
    assert np.count_nonzero(masks != (logits > 0)) > 10


@pytest.mark.parametrize("shape", [(1, 5000, 3), (5000, 2, 3), (1, 1, 3)])
def test_the_narrowest_pictures_are_answered(ours, shape):
    """Where the reference finds no pixel left on the short side there is one."""
    picture = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    (embedding,) = ours.encode([picture])
    prompt = ObjectPrompt(box=Box(0, 0, shape[1], shape[0]))
    query = DecodeQuery(embedding, prompt, multimask=True)
    assert full_size(ours, query, ours.decode([query])[0]).shape == (3, *shape[:2])


def test_few_masks_are_at_full_size_at_once(ours, benches, monkeypatch):
    """However many points are filtered, no mask of another is in hand beside it; each is what it is alone."""
    bench = benches["large"]
    height, width = bench.embedding.image_size
    mask_filter = MaskFilter(mask_threshold=0.0, predicted_iou=0.0, stability_score=0.0, stability_offset=1.0)
    spots = [(width * x / 4, height * y / 4) for x in (1, 2, 3) for y in (1, 2, 3)]
    queries = [PointQuery(bench.embedding, spot, mask_filter) for spot in spots]
    in_hand, most = [], []
    made = ours._levels

    def watched(*arguments) -> Iterator[Levels]:
        for levels in made(*arguments):
            in_hand.append(weakref.ref(levels.inside))
            most.append(sum(each() is not None for each in in_hand))
            yield levels

    monkeypatch.setattr(ours, "_levels", watched)
    together = ours.filtered_masks(queries)
    assert len(in_hand) == 3 * 9
    assert max(most) <= 2
    for query, found in zip(queries, together, strict=True):
        (alone,) = ours.filtered_masks([query])
        for one, other in zip(found.kept, alone.kept, strict=True):
            assert abs(one.predicted_iou - other.predicted_iou) < 1e-5
            # An empty mask has none.
            assert one.stability_score == pytest.approx(other.stability_score, abs=1e-3, nan_ok=True)
            assert one.logits is None


def test_a_sieve_keeps_what_passes(ours, benches):
    """Questions with other thresholds share a call; each gets what passes its own, and hears of all the rest."""
    bench = benches["square"]
    spots = [(x, y) for x in (60.0, 250.0, 440.0) for y in (60.0, 250.0, 440.0)]
    every = MaskFilter(mask_threshold=0.0, predicted_iou=0.0, stability_score=0.0, stability_offset=1.0)
    strict = MaskFilter(mask_threshold=0.0, predicted_iou=0.45, stability_score=0.8, stability_offset=1.0)
    queries = [PointQuery(bench.embedding, spot, mask_filter) for spot in spots for mask_filter in (every, strict)]
    answers = ours.filtered_masks(queries)
    found = [each.kept for each in answers]
    assert all(len(each) == 3 for each in found[::2])
    for all_three, some in zip(found[::2], found[1::2], strict=True):
        passing = [each for each in all_three if each.predicted_iou > 0.45 and each.stability_score >= 0.8]
        assert [each.predicted_iou for each in some] == pytest.approx([e.predicted_iou for e in passing], abs=1e-5)
    assert 0 < sum(map(len, found[1::2])) < 3 * len(spots)
    for every_mask, some in zip(answers[::2], answers[1::2], strict=True):
        assert not every_mask.doubted
        assert not every_mask.unstable
        doubted = [each for each in every_mask.kept if not each.predicted_iou > 0.45]
        unstable = [e for e in every_mask.kept if e.predicted_iou > 0.45 and not e.stability_score >= 0.8]
        assert list(some.doubted) == pytest.approx([each.predicted_iou for each in doubted], abs=1e-5)
        scores = [each.stability_score for each in unstable]
        assert list(some.unstable) == pytest.approx(scores, abs=1e-3, nan_ok=True)


def test_foreign_embeddings_and_empty_prompts_are_refused(ours, benches):
    """What cannot be answered is said, not guessed."""

    class Foreign:
        image_size = (5, 5)
        nbytes = 0

    with pytest.raises(TypeError, match="Foreign"):
        ours.decode([DecodeQuery(Foreign(), ObjectPrompt(box=Box(0, 0, 4, 4)), multimask=False)])
    with pytest.raises(ValueError, match="points, a box or logits"):
        ours.decode([DecodeQuery(benches["tiny"].embedding, ObjectPrompt(), multimask=False)])


def test_it_is_a_segmenter_and_a_sifter(ours):
    """It fills in both Protocols."""
    assert isinstance(ours, Segmenter)
    assert isinstance(ours, GridSegmenter)


@pytest.mark.full_size(gigabytes=5)
def test_the_official_vit_b_is_answered_as_by_the_predictor(tmp_path):
    """The published size is loaded whole, 93.7 M parameters, and two of its twelve blocks answer as the predictor.

    One looks at windows and one at the whole picture. The other ten are these again; that each of them stands where it
    should is held by `test_official_architectures_are_told_apart`.
    """
    torch.manual_seed(1)
    official = sam_model_registry["vit_b"]()
    checkpoint = write_sam(tmp_path / "sam_vit_b.pth", official)
    assert load(ModelFiles(checkpoint, "vit_b"), "cpu").nbytes == 4 * (93_735_472 + 2 * 128 + 6)

    official.image_encoder.blocks = official.image_encoder.blocks[1:3]
    assert [block.window_size for block in official.image_encoder.blocks] == [14, 0]
    torch.save(official.state_dict(), checkpoint)
    picture = PICTURES["wide"]()
    predictor = official_predictor(official, picture)
    model = load(ModelFiles(checkpoint), "cpu")
    (embedding,) = model.encode([picture])
    for kind in ("point", "box and points"):
        case = KINDS[kind](embedding.image_size, np.zeros((256, 256), np.float32))
        query = DecodeQuery(embedding, case.prompt, multimask=True)
        expected = predictor.predict(**case.arguments, return_logits=True)
        assert 0 < (expected[0] > 0).mean() < 1, kind
        assert_same(model, query, model.decode([query])[0], expected)
