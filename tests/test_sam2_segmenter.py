"""SAM 2 answers as the official predictor does on the same weights."""

# ruff: noqa: F811 - a fixture is imported

import gc
import weakref
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from checkpoints import official_config, official_model, official_predictor, sam2_files, write_sam2  # noqa: F401
from cutout_server.models.prompted import on_device
from cutout_server.models.protocols import Segmenter
from cutout_server.models.queries import Candidates, DecodeQuery, MaskQuery
from cutout_server.models.sam2 import Sam2, load
from cutout_server.types import Box, ModelFiles, ObjectPrompt
from sam2.sam2_image_predictor import SAM2ImagePredictor
from sam2_cases import KINDS, PICTURES, Case, points


@dataclass(frozen=True)
class Bench:
    """One picture in both implementations."""

    embedding: object
    predictor: SAM2ImagePredictor
    earlier: np.ndarray

    @property
    def size(self) -> tuple[int, int]:
        return self.embedding.image_size

    def case(self, kind: str) -> Case:
        return KINDS[kind](self.size, self.earlier)


@pytest.fixture(scope="module")
def official(sam2_files) -> torch.nn.Module:
    return official_model(sam2_files.config, sam2_files.checkpoint)


@pytest.fixture(scope="module")
def ours(sam2_files) -> Sam2:
    return load(ModelFiles(sam2_files.checkpoint, str(sam2_files.config)), "cpu")


@pytest.fixture(scope="module")
def benches(official, ours) -> dict[str, Bench]:
    made = {}
    for name, make in PICTURES.items():
        predictor = official_predictor(official, make())
        height, width = make().shape[:2]
        arguments = points((height, width), (0.5, 0.5, 1)).arguments
        earlier = predictor.predict(**arguments, multimask_output=False)[2][0]
        made[name] = Bench(ours.encode([make()])[0], predictor, earlier)
    return made


@pytest.fixture
def two_threads(sam2_files) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def full_size(model: Sam2, query: DecodeQuery, candidates: Candidates, threshold: float = 0.0) -> np.ndarray:
    queries = [MaskQuery(query.embedding, logits, threshold) for logits in candidates.logits]
    return np.stack([patch.whole() for patch in model.masks(queries)])


def assert_same(model: Sam2, query: DecodeQuery, candidates: Candidates, expected) -> None:
    """`expected` is what `predict` gives with return_logits, so that its masks are `expected[0] > 0`."""
    upscaled, scores, logits = expected
    differs = full_size(model, query, candidates) != (upscaled > 0)
    if len(candidates.logits) == 3 and torch.get_num_threads() == 1:
        # A single thread upscales three channels by another kernel than one, which rounds the last bits otherwise.
        assert np.abs(upscaled[differs]).max(initial=0) < 2e-3
        assert np.count_nonzero(differs) <= 3
    else:
        assert not differs.any()
    assert candidates.predicted_iou.dtype == candidates.logits.dtype == np.float32
    np.testing.assert_allclose(candidates.predicted_iou, scores, rtol=0, atol=1e-4)
    np.testing.assert_allclose(candidates.logits.clip(-32, 32), logits, rtol=0, atol=1e-4)


def assert_close(one: Candidates, other: Candidates) -> None:
    np.testing.assert_allclose(one.logits, other.logits, rtol=1e-4, atol=1e-3)
    np.testing.assert_allclose(one.predicted_iou, other.predicted_iou, rtol=0, atol=1e-5)


@pytest.mark.parametrize("multimask", [True, False])
@pytest.mark.parametrize(
    ("picture", "kind"),
    [("square", kind) for kind in KINDS]
    + [(name, kind) for name in list(PICTURES)[1:] for kind in ("point", "box and points", "mask")],
)
def test_a_prompt_is_answered_as_by_the_predictor(ours, benches, picture, kind, multimask):
    """Masks are the same; scores and clamped logits agree to 1e-4."""
    bench, case = benches[picture], benches[picture].case(kind)
    query = DecodeQuery(bench.embedding, case.prompt, multimask)
    (candidates,) = ours.decode([query])
    expected = bench.predictor.predict(**case.arguments, multimask_output=multimask, return_logits=True)
    assert_same(ours, query, candidates, expected)


def test_masks_are_the_predictors_to_the_pixel(ours, benches, two_threads):
    """With more than one thread, all three masks of a large picture are identical."""
    bench, case = benches["large"], benches["large"].case("point")
    query = DecodeQuery(bench.embedding, case.prompt, multimask=True)
    assert np.array_equal(full_size(ours, query, ours.decode([query])[0]), bench.predictor.predict(**case.arguments)[0])


def test_prompts_matter(ours, benches):
    """The weights under test are no constant: every kind of prompt gets another mask."""
    bench = benches["square"]
    queries = [DecodeQuery(bench.embedding, bench.case(kind).prompt, multimask=True) for kind in KINDS]
    masks = [full_size(ours, query, answer) for query, answer in zip(queries, ours.decode(queries), strict=True)]
    assert all((one != other).mean() > 0.01 for i, one in enumerate(masks) for other in masks[:i])


@pytest.mark.parametrize("multimask", [True, False])
def test_several_boxes_are_answered_as_by_the_predictor(ours, benches, multimask):
    """Boxes on one picture share a call, as when the predictor gets them at once."""
    bench = benches["square"]
    boxes = np.array([[20, 30, 200, 300], [100, 100, 400, 500], [0, 0, 512, 512]], np.float32)
    queries = [DecodeQuery(bench.embedding, ObjectPrompt(box=Box(*map(float, b))), multimask) for b in boxes]
    expected = bench.predictor.predict(box=boxes, multimask_output=multimask, return_logits=True)
    for query, candidates, *each in zip(queries, ours.decode(queries), *expected, strict=True):
        assert_same(ours, query, candidates, each)


@pytest.mark.parametrize(
    "device",
    ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"))],
)
def test_pictures_arrive_whole(device: str):
    """One after the other, while the device is busy with those before."""
    pictures = [np.random.default_rng(i).integers(0, 256, (700, 900, 3), np.uint8) for i in range(8)]
    pictures[1].setflags(write=False)
    work = torch.ones(1024, 1024, device=device)
    arrived = []
    for picture in pictures:
        work = work @ work / 1024
        arrived.append(on_device(picture, torch.device(device)) + 0)
    assert all(np.array_equal(there.cpu().numpy(), here) for there, here in zip(arrived, pictures, strict=True))


def test_a_grid_of_points_is_one_call_of_the_decoder(ours, benches):
    """64 points are decoded at once, as SAM2AutomaticMaskGenerator does; the 65th takes a second call."""
    bench = benches["wide"]
    height, width = bench.size
    grid = np.array([((i + 0.5) / 8 * width, (j + 0.5) / 8 * height) for j in range(8) for i in range(8)], np.float32)
    prompts = [ObjectPrompt(points=point[None], labels=np.ones(1, np.int32)) for point in grid]
    queries = [DecodeQuery(bench.embedding, prompt, multimask=True) for prompt in prompts]
    batches = []
    hook = ours._model.sam_mask_decoder.register_forward_hook(lambda _, __, output: batches.append(len(output[0])))
    try:
        answers = ours.decode([*queries, queries[0]])
    finally:
        hook.remove()
    assert batches == [64, 1]
    assert_close(answers.pop(), answers[0])
    expected = bench.predictor.predict(grid[:, None], np.ones((64, 1), np.int32), return_logits=True)
    for query, candidates, *each in zip(queries, answers, *expected, strict=True):
        assert_same(ours, query, candidates, each)


def test_candidates_do_not_keep_each_other_in_memory(ours, benches):
    """Each answer owns its logits."""
    bench = benches["square"]
    first, second = ours.decode([DecodeQuery(bench.embedding, bench.case("box").prompt, multimask=True)] * 2)
    assert first.logits.base is None
    assert second.logits.base is None


def test_prompts_of_all_kinds_and_pictures_may_share_a_call(ours, benches):
    """Answers come in the order of the questions, and each is what it is alone."""
    queries = [
        DecodeQuery(bench.embedding, bench.case(kind).prompt, multimask)
        for kind in KINDS
        for multimask in (True, False)
        for bench in (benches["square"], benches["tall"])
    ]
    queries += queries[::3]
    together = ours.decode(queries)
    assert len(together) == len(queries)
    for query, candidates in zip(queries, together, strict=True):
        assert candidates.logits.shape == (3 if query.multimask else 1, 256, 256)
        assert_close(candidates, ours.decode([query])[0])


def test_a_batch_of_pictures_is_encoded_as_each_alone(ours, official, benches):
    """Pictures of different sizes in one call get the embeddings that they get alone, and from the predictor."""
    embeddings = ours.encode([make() for make in PICTURES.values()])
    assert len(embeddings) == len(PICTURES)
    no_memory = official.no_mem_embed.view(1, -1, 1, 1)  # The predictor adds it at once.
    for embedding, bench in zip(embeddings, benches.values(), strict=True):
        features = bench.predictor._features
        expected = [features["image_embed"], *features["high_res_feats"]]
        alone = [bench.embedding.features + no_memory, *bench.embedding.high_res_feats]
        together = [embedding.features + no_memory, *embedding.high_res_feats]
        assert embedding.image_size == bench.size == bench.predictor._orig_hw[0]
        for tensors in zip(expected, alone, together, strict=True):
            assert torch.equal(tensors[0], tensors[1])
            assert torch.equal(tensors[0], tensors[2])


def test_pictures_may_be_read_only_views(ours, benches):
    """Neither strides nor the writeable flag matter."""
    picture = PICTURES["square"]()
    view = np.asfortranarray(picture[::-1])[::-1]
    view.flags.writeable = False
    assert torch.equal(ours.encode([view])[0].features, benches["square"].embedding.features)


def test_nothing_asked_is_nothing_answered(ours):
    """Empty calls give empty answers."""
    assert ours.encode([]) == ours.decode([]) == ours.masks([]) == []


@pytest.mark.parametrize("threshold", [-3.5, 2.0])
def test_the_threshold_is_the_predictors(ours, benches, threshold):
    """Masks are what exceeds the threshold in the predictor's own upscaled logits."""
    bench = benches["wide"]
    case = bench.case("box")
    query = DecodeQuery(bench.embedding, case.prompt, multimask=False)
    masks = full_size(ours, query, ours.decode([query])[0], threshold)
    logits = bench.predictor.predict(**case.arguments, multimask_output=False, return_logits=True)[0]
    assert np.array_equal(masks, logits > threshold)
    assert not np.array_equal(masks, logits > 0)


def test_masks_come_from_logits_before_the_clamp(ours, benches):
    """Clamping first would move the boundary."""
    bench = benches["square"]
    query = DecodeQuery(bench.embedding, bench.case("box").prompt, multimask=True)
    (candidates,) = ours.decode([query])
    clamped = Candidates(candidates.logits.clip(-32, 32), candidates.predicted_iou)
    assert not np.array_equal(full_size(ours, query, candidates), full_size(ours, query, clamped))


def test_threads_do_not_disturb_each_other(ours):
    """Encodes, decodes and masks of several pictures at once give what they give one after the other."""

    def work(name: str) -> list[np.ndarray]:
        (embedding,) = ours.encode([PICTURES[name]()])
        cases = [
            KINDS[kind](embedding.image_size, np.zeros((256, 256), np.float32)) for kind in ("box", "point", "mask")
        ]
        queries = [DecodeQuery(embedding, case.prompt, multimask=True) for case in cases]
        return [full_size(ours, query, ours.decode([query])[0]) for query in queries for _ in range(3)]

    names = ["square", "tall", "wide"]
    serial = [work(name) for name in names]
    with ThreadPoolExecutor(3) as threads:
        for one, other in zip(serial, threads.map(work, names), strict=True):
            assert all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))


def test_gradients_stay_as_the_caller_has_them(ours, benches):
    """No call leaves its thread in inference mode, nor with gradients off."""
    bench = benches["tiny"]
    ours.encode([PICTURES["tiny"]()])
    ours.decode([DecodeQuery(bench.embedding, bench.case("box").prompt, multimask=False)])
    assert torch.is_grad_enabled()
    assert not torch.is_inference_mode_enabled()


def test_memory_is_counted_to_the_byte(ours, official, benches):
    """An embedding counts its maps, and the model its weights."""
    maps = 32 * 64 * 64 + 4 * 256 * 256 + 8 * 128 * 128
    assert all(bench.embedding.nbytes == 4 * maps for bench in benches.values())
    assert all(embedding.nbytes == 4 * maps for embedding in ours.encode([PICTURES["tiny"]()] * 2))
    kept = (v for k, v in official.state_dict().items() if "pos_embed" not in k)
    positions = 4 * 256 * 256 * 8  # Computed once from the checkpoint's, which are smaller.
    assert ours.nbytes == sum(v.nbytes for v in kept) + positions


def test_weights_are_freed_with_the_model(sam2_files):
    """Dropping the model is enough, without a garbage collection."""
    model = load(ModelFiles(sam2_files.checkpoint, str(sam2_files.config)), "cpu")
    (embedding,) = model.encode([PICTURES["tiny"]()])
    modules = (model._model, model._encoder._module)
    weights = [weakref.ref(parameter) for module in modules for parameter in module.parameters()]
    del modules
    gc.disable()
    try:
        del model
        assert all(weight() is None for weight in weights)
    finally:
        gc.enable()
    assert embedding.nbytes > 0


def test_foreign_embeddings_and_empty_prompts_are_refused(ours, benches):
    """What cannot be answered is said, not guessed."""

    class Foreign:
        image_size = (5, 5)
        nbytes = 0

    with pytest.raises(TypeError, match="Foreign"):
        ours.decode([DecodeQuery(Foreign(), ObjectPrompt(box=Box(0, 0, 4, 4)), multimask=False)])
    with pytest.raises(ValueError, match="points, a box or logits"):
        ours.decode([DecodeQuery(benches["tiny"].embedding, ObjectPrompt(), multimask=False)])


def test_it_is_a_segmenter(ours):
    """It fills in the Protocol."""
    assert isinstance(ours, Segmenter)


@pytest.mark.slow
@pytest.mark.full_size(gigabytes=2)
def test_an_official_architecture_is_answered_as_by_the_predictor(tmp_path):
    """The full-size SAM 2.1 tiny, told apart by its checkpoint alone, agrees with the predictor too."""
    config = official_config("sam2.1/sam2.1_hiera_t")
    checkpoint = write_sam2(tmp_path, config)
    picture = PICTURES["wide"]()
    predictor = official_predictor(official_model(config, checkpoint), picture)
    model = load(ModelFiles(checkpoint), "cpu")
    (embedding,) = model.encode([picture])
    earlier = predictor.predict(point_coords=np.array([[300, 80]]), point_labels=np.array([1]))[2][0]
    for kind, make in KINDS.items():
        case = make(embedding.image_size, earlier)
        query = DecodeQuery(embedding, case.prompt, multimask=True)
        expected = predictor.predict(**case.arguments, return_logits=True)
        assert 0.001 < (expected[0] > 0).mean() < 0.999, kind
        assert_same(model, query, model.decode([query])[0], expected)
