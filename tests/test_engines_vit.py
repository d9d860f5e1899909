"""The faster image encoder of SAM 1 and SAM-HQ is the official one: in its answers, its weights and its memory."""

import copy
from functools import partial

import numpy as np
import pytest
import torch
from cutout_server.models.engines.vit import Vit, of_sam, of_sam_hq
from segment_anything.modeling import ImageEncoderViT
from transformers import SamHQVisionConfig
from transformers.models.sam_hq.modeling_sam_hq import SamHQVisionEncoder

SIDE = 12  # Tokens; no multiple of the window unless a test says so.


@pytest.fixture(autouse=True)
def _one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@torch.no_grad()
def spread(encoder: torch.nn.Module) -> torch.nn.Module:
    """Gives every parameter a part in the answer: biases and positions of official encoders start at zero."""
    torch.manual_seed(4)
    for name, parameter in encoder.named_parameters():
        parameter.normal_(1.0 if "norm" in name and name.endswith("weight") else 0.0, 0.2)
    return encoder.eval().requires_grad_(requires_grad=False)


def sam(**changes) -> ImageEncoderViT:
    options = {"window_size": 5, "global_attn_indexes": (1, 3), "use_rel_pos": True, "use_abs_pos": True, **changes}
    norm = partial(torch.nn.LayerNorm, eps=1e-6)
    return spread(
        ImageEncoderViT(
            img_size=16 * SIDE, embed_dim=24, depth=4, num_heads=3, out_chans=16, norm_layer=norm, **options
        )
    )


def sam_hq(**changes) -> SamHQVisionEncoder:
    config = SamHQVisionConfig(
        hidden_size=24,
        num_hidden_layers=4,
        num_attention_heads=3,
        image_size=16 * SIDE,
        output_channels=16,
        **{"window_size": 5, "global_attn_indexes": [1, 3], "mlp_ratio": 2.0, **changes},
    )
    return spread(SamHQVisionEncoder(config))


def pictures(count: int = 1) -> torch.Tensor:
    return torch.randn(count, 3, 16 * SIDE, 16 * SIDE, generator=torch.Generator().manual_seed(1))


def assert_close(actual: torch.Tensor, expected: torch.Tensor, relative: float = 1e-5) -> None:
    assert actual.dtype == torch.float32
    assert actual.shape == expected.shape
    assert (actual - expected).norm() <= relative * expected.norm()


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"window_size": 4},  # nothing to pad
        {"window_size": 0},  # each block looks at the whole picture
        {"window_size": 14},  # one window, larger than the picture
        {"global_attn_indexes": ()},
        {"use_rel_pos": False},
        {"use_abs_pos": False},
        {"qkv_bias": False},
    ],
    ids=str,
)
@torch.inference_mode()
def test_sam_1_is_encoded_as_by_the_official_encoder(changes):
    """With windows that fit, that need padding, that are not there; alone and in a batch."""
    official = sam(**changes)
    ours = of_sam(official)
    for count in (1, 3):
        (features,) = ours(pictures(count))
        assert_close(features, official(pictures(count)))


@pytest.mark.parametrize(
    "changes", [{}, {"use_rel_pos": False}, {"use_abs_pos": False}, {"hidden_act": "relu"}], ids=str
)
@torch.inference_mode()
def test_sam_hq_is_encoded_as_by_transformers(changes):
    """The features, and the tokens after the first block that looks at the whole picture."""
    official = sam_hq(**changes)
    expected = official(pictures(2))
    features, early = of_sam_hq(official)(pictures(2))
    assert_close(features, expected.last_hidden_state)
    assert_close(early, expected.intermediate_embeddings[0])


@pytest.mark.parametrize(("official", "build"), [(sam, of_sam), (sam_hq, of_sam_hq)])
def test_weights_are_the_official_encoders_own(official, build):
    """All are shared but for the tables of relative positions, which are gathered."""
    official = official()
    ours: Vit = build(official)
    theirs = {each.data_ptr(): name for name, each in official.named_parameters()}
    shared = {theirs.pop(each.data_ptr()) for each in ours.parameters()}
    assert all(name.endswith(("rel_pos_h", "rel_pos_w")) for name in theirs.values())
    assert len(shared) > 40
    with torch.inference_mode():
        (before, *_) = ours(pictures())
        official.get_parameter(next(name for name in shared if name.endswith("qkv.weight"))).mul_(2)
        (after, *_) = ours(pictures())
    assert (before - after).norm() > 0.01 * before.norm()


@torch.inference_mode()
def test_it_runs_in_bf16():
    """Nothing but the buffers' and weights' precision changes: the direction of the features is kept."""
    ours = of_sam(sam())
    (expected,) = ours(pictures())
    (features,) = copy.deepcopy(ours).bfloat16()(pictures().bfloat16())
    assert features.dtype == torch.bfloat16
    assert torch.cosine_similarity(features.float().flatten(), expected.flatten(), dim=0) > 0.999
    assert (features.float() - expected).norm() < 0.03 * expected.norm()


@torch.inference_mode()
def test_padding_is_seen_as_the_official_encoder_sees_it():
    """It takes part in the softmax: without it the features would be others, so the tests above would notice."""
    official = sam(qkv_bias=True)
    (features,) = of_sam(official)(pictures())
    for block in official.blocks:
        block.attn.qkv.bias[24:].fill_(0)
    assert (of_sam(official)(pictures())[0] - features).norm() > 0.01 * features.norm()


@pytest.mark.slow
@torch.no_grad()
def test_torch_can_export_it():
    """For ahead-of-time compilation."""
    ours = of_sam_hq(sam_hq())
    exported = torch.export.export(ours, (pictures(),)).module()
    for actual, expected in zip(exported(pictures()), ours(pictures()), strict=True):
        assert_close(actual, expected)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # exporters use what newer PyTorch deprecates
@pytest.mark.parametrize(("official", "build"), [(sam, of_sam), (sam_hq, of_sam_hq)])
@torch.no_grad()
def test_openvino_answers_alike(official, build):
    """From a trace of it, in fp32."""
    openvino = pytest.importorskip("openvino")
    ours = build(official())
    model = openvino.convert_model(ours, example_input=pictures())
    answers = openvino.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})(pictures().numpy())
    for actual, expected in zip(answers.values(), ours(pictures()), strict=True):
        assert_close(torch.from_numpy(np.array(actual)), expected)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@torch.no_grad()
def test_onnx_runtime_answers_alike(tmp_path):
    """From its ONNX graph, in fp32."""
    runtime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    ours = of_sam_hq(sam_hq())
    torch.onnx.export(ours, (pictures(),), tmp_path / "vit.onnx", dynamo=True, verbose=False)
    session = runtime.InferenceSession(tmp_path / "vit.onnx", providers=["CPUExecutionProvider"])
    answers = session.run(None, {session.get_inputs()[0].name: pictures().numpy()})
    for actual, expected in zip(answers, ours(pictures()), strict=True):
        assert_close(torch.from_numpy(actual), expected)
