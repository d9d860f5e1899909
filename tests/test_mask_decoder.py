"""The mask decoder for many prompts answers as the official ones do, and rounds off no more than they."""

import copy
from types import SimpleNamespace

import pytest
import torch
from cutout_server.models import mask_decoder, two_way
from cutout_server.models.mask_decoder import MaskDecoder
from cutout_server.models.sam2.haste import decode_by
from sam2.modeling.sam.mask_decoder import MaskDecoder as Sam2MaskDecoder
from sam2.modeling.sam.transformer import TwoWayTransformer as Sam2TwoWayTransformer
from segment_anything.modeling import MaskDecoder as SamMaskDecoder
from segment_anything.modeling import TwoWayTransformer

WIDTH, GRID = 64, (6, 10)
SIZES = {"depth": 2, "embedding_dim": WIDTH, "mlp_dim": 48, "num_heads": 4}


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    with torch.inference_mode():
        yield
    torch.set_num_threads(before)


def sam() -> torch.nn.Module:
    return SamMaskDecoder(num_multimask_outputs=3, transformer=TwoWayTransformer(**SIZES), transformer_dim=WIDTH)


def sam2(*, presence: bool = True, finer: bool = True) -> torch.nn.Module:
    return Sam2MaskDecoder(
        num_multimask_outputs=3,
        transformer=Sam2TwoWayTransformer(**SIZES),
        transformer_dim=WIDTH,
        use_high_res_features=finer,
        iou_prediction_use_sigmoid=True,
        pred_obj_scores=presence,
        pred_obj_scores_mlp=presence,
    )


MODULES = {
    "SAM": sam,
    "SAM 2": lambda: sam2(presence=False),
    "SAM 2.1": sam2,
    "SAM 2 without finer features": lambda: sam2(finer=False),
}


@pytest.fixture(params=MODULES)
def module(request) -> torch.nn.Module:
    """A decoder whose every parameter matters."""
    torch.manual_seed(5)
    made = MODULES[request.param]().eval()
    for parameter in made.parameters():
        parameter.normal_(parameter.mean(), 0.15)
    return made


def case(prompts: int, points: int, *, masks: bool) -> SimpleNamespace:
    """Arguments of a decoder, for this many prompts of this many points, each with a mask or none."""
    height, width = GRID
    generator = torch.Generator().manual_seed(prompts)
    shapes = {
        "image": (1, WIDTH, height, width),
        "positions": (1, WIDTH, height, width),
        "sparse": (prompts, points, WIDTH),
        "dense": (prompts, WIDTH, height, width) if masks else (1, WIDTH, 1, 1),
    }
    made = {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    made["dense"] = made["dense"].expand(-1, -1, height, width)
    finer = [(1, WIDTH // 8, 4 * height, 4 * width), (1, WIDTH // 4, 2 * height, 2 * width)]
    return SimpleNamespace(**made, finer=[torch.randn(shape, generator=generator) for shape in finer])


def official(module: torch.nn.Module, given: SimpleNamespace, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    """All masks of each prompt, and their scores."""
    module = copy.deepcopy(module).to(dtype)
    sam2s = {}
    if isinstance(module, Sam2MaskDecoder):
        sam2s = {"repeat_image": True, "high_res_features": [each.to(dtype) for each in given.finer]}
    masks, scores, *_ = module.predict_masks(
        image_embeddings=given.image.to(dtype),
        image_pe=given.positions.to(dtype),
        sparse_prompt_embeddings=given.sparse.to(dtype),
        dense_prompt_embeddings=given.dense.to(dtype).expand(len(given.sparse), -1, -1, -1),
        **sam2s,
    )
    return masks, scores


def ours(module: torch.nn.Module, given: SimpleNamespace, masks: slice) -> tuple[torch.Tensor, torch.Tensor]:
    finer = given.finer if getattr(module, "use_high_res_features", False) else ()
    return MaskDecoder(module, given.positions)(given.image, given.sparse, given.dense, finer, masks=masks)


@pytest.mark.parametrize("masks", [True, False], ids=["masks", "no masks"])
@pytest.mark.parametrize(("prompts", "points"), [(1, 2), (5, 1), (5, 3), (2, 12)])
def test_prompts_are_decoded_as_by_the_official_module(module, prompts, points, masks):
    """One or many, few points or so many that the reference's own transformer is the faster one."""
    given = case(prompts, points, masks=masks)
    for expected, answer in zip(official(module, given, torch.float32), ours(module, given, slice(None)), strict=True):
        torch.testing.assert_close(answer, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("module", [name for name in MODULES if name != "SAM"], indirect=True)
@pytest.mark.parametrize("masks", [True, False], ids=["masks", "no masks"])
def test_objects_of_a_frame_are_decoded_as_by_sam_2(module, masks):
    """Each with an image of its own: masks, scores, the tokens of the masks, and presence."""
    given = case(3, 2, masks=masks)
    images = given.image + torch.randn(3, WIDTH, *GRID)
    model = SimpleNamespace(sam_mask_decoder=module, device=torch.device("cpu"))
    arguments = {
        "image_embeddings": images,
        "image_pe": given.positions,
        "sparse_prompt_embeddings": given.sparse,
        "dense_prompt_embeddings": given.dense.expand(3, -1, -1, -1),
        "multimask_output": True,
        "repeat_image": False,
        "high_res_features": [each.expand(3, -1, -1, -1) for each in given.finer],
    }
    expected = module(**arguments)
    decode_by(model, MaskDecoder(module, given.positions))
    for answer, theirs in zip(module(**arguments), expected, strict=True):
        torch.testing.assert_close(answer, theirs, rtol=1e-5, atol=1e-5)


def test_it_rounds_off_no_more_than_the_official_module(module):
    """Measured from the answers in float64, over all logits."""
    given = case(16, 2, masks=False)
    exact, _ = official(module, given, torch.float64)
    theirs, mine = official(module, given, torch.float32)[0], ours(module, given, slice(None))[0]
    assert (mine - exact).square().mean() < 2 * (theirs - exact).square().mean()


def test_in_bf16_the_masks_stay(module):
    """Within the rounding of bf16: 8 bits of each number, whose errors cancel over a product; scores end in float32."""
    given = case(6, 2, masks=False)
    finer = given.finer if getattr(module, "use_high_res_features", False) else ()
    faster = MaskDecoder(module, given.positions, torch.bfloat16)
    logits, scores = faster(given.image, given.sparse, given.dense, finer, masks=slice(None))
    expected, expected_scores = official(module, given, torch.float32)
    assert logits.dtype == scores.dtype == torch.float32
    assert (logits - expected).abs().mean() < 0.02 * expected.std()
    assert (scores - expected_scores).abs().max() < 0.02 * expected_scores.abs().max()
    inside, truth = logits > 0, expected > 0
    assert (inside & truth).sum() > 0.98 * (inside | truth).sum()
    assert all(parameter.dtype == torch.float32 for parameter in module.parameters())


def test_only_the_masks_that_are_wanted_are_made(module):
    """And they are those of all."""
    given = case(3, 2, masks=False)
    logits, scores = ours(module, given, slice(None))
    for masks in (slice(0, 1), slice(1, None)):
        some_logits, some_scores = ours(module, given, masks)
        torch.testing.assert_close(some_logits, logits[:, masks], rtol=1e-5, atol=1e-5)
        assert torch.equal(some_scores, scores[:, masks])


@pytest.mark.parametrize("masks", [True, False], ids=["masks", "no masks"])
def test_company_changes_nothing(module, masks, monkeypatch):
    """Prompts are answered alike however many are taken at once."""
    given = case(5, 2, masks=masks)
    alone = ours(module, given, slice(None))
    for step in (1, 2, 5):
        monkeypatch.setattr(mask_decoder, "_PROMPTS_AT_ONCE", {torch.float32: step})
        for one, other in zip(ours(module, given, slice(None)), alone, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)


def test_many_points_take_the_reference_s_transformer(module):
    """Where folding the projections into the points would multiply more."""
    heads, width = SIZES["num_heads"], WIDTH // 2
    assert two_way.saves_work(module.transformer, width // heads)
    assert not two_way.saves_work(module.transformer, width // heads + 1)
