"""Grounding DINO in less time: layer by layer the same mathematics, and nothing of one picture stays for another."""

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from asking import Ask, detect
from cutout_server.catalogue import Catalogue
from cutout_server.models.grounding_dino import load
from cutout_server.models.grounding_dino.deformable import DeformableAttention, Places
from cutout_server.models.grounding_dino.fast_network import FastNetwork, is_usual
from cutout_server.models.grounding_dino.prompts import Prompt
from cutout_server.models.grounding_dino.swin import Swin
from cutout_server.models.grounding_dino.transformers_network import TransformersNetwork
from cutout_server.models.runtime import Precision, Runtime
from cutout_server.settings import Settings
from cutout_server.types import ModelFiles
from grounding_dino_checkpoints import (  # noqa: F401 - fixtures
    SIZE,
    config,
    grounding_dino_folder,
    liven,
    one_thread,
    tokenizer,
)
from sam2_cases import PICTURES
from transformers import (
    GroundingDinoForObjectDetection,
    GroundingDinoImageProcessor,
    GroundingDinoProcessor,
    MMGroundingDinoConfig,
    MMGroundingDinoForObjectDetection,
)
from transformers.models.grounding_dino.modeling_grounding_dino import GroundingDinoMultiscaleDeformableAttention

pytestmark = pytest.mark.usefixtures("one_thread")

CAT = Prompt((101, 110, 1012, 102), ())
MANY = Prompt((101, 110, 111, 1012, 112, 1012, 113, 114, 115, 1012, 102), ())


def build(*, mm: bool = False) -> torch.nn.Module:
    kind, configured = (
        (MMGroundingDinoForObjectDetection, config(MMGroundingDinoConfig))
        if mm
        else (GroundingDinoForObjectDetection, config())
    )
    model = kind(configured).eval().requires_grad_(requires_grad=False)
    liven(model, 4, 1.2 if mm else 0.3)
    for name, parameter in model.named_parameters():
        if name.endswith(("vision_param", "text_param")):  # Else words and picture hardly meet.
            parameter.fill_(0.5)
    return model


@pytest.fixture(scope="module", params=[False, True], ids=["grounding-dino", "mm-grounding-dino"])
def pair(request: pytest.FixtureRequest) -> tuple[TransformersNetwork, FastNetwork]:
    model = build(mm=request.param)
    return TransformersNetwork(model), FastNetwork(copy.deepcopy(model))


def answer(
    network: TransformersNetwork | FastNetwork, pixels: torch.Tensor, prompts: list[Prompt]
) -> tuple[torch.Tensor, torch.Tensor]:
    return network(network.look(pixels), prompts)


def picture(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(
    ("shape", "prompts"),
    [
        ((1, 3, 96, 96), [CAT]),
        ((1, 3, 40, 160), [MANY]),  # The coarsest map has one row.
        ((1, 3, 131, 97), [MANY]),  # Windows of every stage are padded.
        ((3, 3, 64, 90), [CAT, MANY, CAT]),
    ],
    ids=str,
)
@torch.inference_mode()
def test_equal_to_transformers(pair: tuple, shape: tuple[int, ...], prompts: list[Prompt]):
    """Logits and boxes, whatever the size, and for several pictures and prompts at once."""
    pixels = picture(*shape)
    (expected, expected_boxes), (logits, boxes) = (answer(network, pixels, prompts) for network in pair)
    torch.testing.assert_close(logits, expected, atol=5e-5, rtol=1e-4)
    torch.testing.assert_close(boxes, expected_boxes, atol=1e-5, rtol=0)


@pytest.mark.parametrize("size", [(96, 96), (33, 130), (28, 28)], ids=str)
@torch.inference_mode()
def test_the_backbones_maps(size: tuple[int, int]):
    """Each stage's map, with windows that are shifted and padded."""
    backbone = build().model.backbone.conv_encoder.model
    pixels = picture(2, 3, *size)
    expected = backbone(pixels).feature_maps
    for (tokens, shape), other in zip(Swin(backbone)(pixels), expected, strict=True):
        torch.testing.assert_close(tokens.mT.unflatten(2, shape), other, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("shapes", [[(5, 7), (3, 4)], [(2, 6), (1, 3)], [(6, 2), (4, 1)], [(3, 3), (1, 1)]], ids=str)
@torch.inference_mode()
def test_sampling(shapes: list[tuple[int, int]]):
    """On the map, at its border and far beyond it; on maps of one row, one column, one value."""
    attention = GroundingDinoMultiscaleDeformableAttention(config(num_feature_levels=2), num_heads=4, n_points=3).eval()
    liven(attention, 1)
    attention.sampling_offsets.weight *= 8
    values = sum(height * width for height, width in shapes)
    queries, memory = picture(2, 1500, 32), picture(2, values, 32, seed=1)
    boxes = torch.rand(2, 1500, 4, generator=torch.Generator().manual_seed(2))
    expected, _ = attention(
        hidden_states=queries,
        encoder_hidden_states=memory,
        reference_points=boxes[:, :, None].expand(-1, -1, 2, -1),
        spatial_shapes=torch.tensor(shapes),
        spatial_shapes_list=shapes,
        level_start_index=None,
    )
    places = Places(shapes, 4, 3, torch.device("cpu"))
    sides = places.sides[:, None, :6]
    centres, scales = boxes[..., :2, None, None] * sides - 0.5, boxes[..., 2:, None, None] * sides * (0.5 / 3)
    found = DeformableAttention(attention)(queries, memory, centres, scales, places)
    torch.testing.assert_close(found, expected, atol=2e-5, rtol=1e-4)


@torch.inference_mode()
def test_words_are_read_once():
    """The same phrases cost nothing the second time, other phrases do, and answers stay the same."""
    network = FastNetwork(build())
    read = []
    network._model.text_backbone.register_forward_hook(lambda _, inputs, __: read.append(inputs[0].tolist()))
    pixels = picture(1, 3, 80, 80)
    first, _ = answer(network, pixels, [CAT])
    again, _ = answer(network, pixels, [CAT])
    answer(network, pixels, [MANY])
    answer(network, picture(2, 3, 80, 80), [MANY, CAT])
    assert read == [[list(CAT.ids)], [list(MANY.ids)]]
    assert torch.equal(first, again)
    assert torch.equal(first, answer(network, pixels, [CAT])[0])


@torch.inference_mode()
def test_what_is_kept_is_bounded():
    """However many phrases and sizes are asked for; and they answer as they did before they were forgotten."""
    network = FastNetwork(build())
    pixels = picture(1, 3, 80, 80)
    first = answer(network, pixels, [CAT])
    for index in range(70):
        network._text([Prompt((101, 110 + index, 1012, 102), ())])
    for side in range(80, 280, 32):
        answer(network, picture(1, 3, 80, side), [CAT])
    assert network._text._kept.cache_info().currsize == 64
    assert network._grids.cache_info().currsize == 4
    assert network._swin._cuts.cache_info().currsize <= 32
    for found, expected in zip(answer(network, pixels, [CAT]), first, strict=True):
        assert torch.equal(found, expected)


@torch.inference_mode()
def test_bf16_detects_the_same():
    """With weights as patient as trained ones, the best boxes are the same, and scores close."""
    model = build()
    queries = model.model.query_position_embeddings.weight
    queries.copy_(queries[:1].clone().expand_as(queries))  # So that ranks of places do not decide.
    for name, parameter in model.named_parameters():
        if "sampling_offsets.weight" in name or ("bbox_embed" in name and "layers.2.weight" in name):
            parameter.mul_(0.1)
    exact, half = FastNetwork(copy.deepcopy(model)), FastNetwork(copy.deepcopy(model), torch.bfloat16)
    assert half.nbytes < 0.9 * exact.nbytes
    pixels = torch.nn.functional.avg_pool2d(picture(1, 3, 128, 160), 5, 1, 2) * 5
    (logits, boxes), (other_logits, other_boxes) = answer(exact, pixels, [MANY]), answer(half, pixels, [MANY])
    scores, others = logits[0].amax(-1).sigmoid(), other_logits[0].amax(-1).sigmoid()
    best = scores.topk(5).indices
    distance = (boxes[0][best, None] - other_boxes[0]).abs().amax(-1)
    nearest = distance.argmin(1)
    assert 0 < float(distance.amin(1).max()) < 0.02
    assert float((scores[best] - others[nearest]).abs().max()) < 0.02


def test_precision_of_a_folder(grounding_dino_folder: Path):  # noqa: F811
    """The runtime chooses it, and half precision takes less memory."""
    files = ModelFiles(grounding_dino_folder)
    exact, half = (load(files, "cpu", Runtime(precision=each)) for each in (Precision.FP32, Precision.BF16))
    assert half.nbytes < exact.nbytes
    query = Ask(PICTURES["square"](), ("cat", "red sofa"), 0.0, 0.0)
    (found,) = detect(half, [query])
    assert len(found) == len(detect(exact, [query])[0])
    assert all(0 < each.score < 1 and np.isfinite(each.box.x_min) for each in found)


@pytest.mark.parametrize(("amx", "expected"), [(True, "bf16"), (False, "fp32")])
def test_precision_by_itself(grounding_dino_folder: Path, monkeypatch: pytest.MonkeyPatch, amx: bool, expected: str):  # noqa: F811
    """A model that settings leave alone computes in bf16 only where that is far faster."""
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True)
    model = {"name": "dino", "family": "grounding-dino", "checkpoint": str(grounding_dino_folder)}
    loaded = Catalogue.of(Settings(models=[model])).specs["dino"].load("cpu")
    assert loaded.runtime.precision == expected


def test_other_architectures(tmp_path: Path):
    """One that is not built as the published models are is left to transformers."""
    model = GroundingDinoForObjectDetection(config(position_embedding_type="learned"))
    liven(model)
    assert not is_usual(model.config)
    model.save_pretrained(tmp_path)
    GroundingDinoProcessor(GroundingDinoImageProcessor(size=SIZE), tokenizer()).save_pretrained(tmp_path)
    detector = load(ModelFiles(tmp_path), "cpu", Runtime(precision=Precision.BF16))
    assert isinstance(detector._network, TransformersNetwork)
    (found,) = detect(detector, [Ask(PICTURES["square"](), ("cat",), 0.0, 0.0)])
    assert len(found) == model.config.num_queries
