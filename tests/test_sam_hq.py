"""SAM-HQ answers as transformers' own processor and model do on the same folder."""

import json
import shutil
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from cutout_common.masks import rle_decode
from cutout_server.errors import FailedPreconditionError
from cutout_server.models.protocols import GridSegmenter, Segmenter
from cutout_server.models.queries import Candidates, DecodeQuery, MaskFilter, MaskQuery, PointQuery
from cutout_server.models.sam_hq import SamHq, load
from cutout_server.types import Box, ModelFiles, ObjectPrompt, Rle
from sam2_cases import KINDS, PICTURES
from transformers import SamHQConfig, SamHQModel, SamHQProcessor, SamImageProcessor

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("kept_memory")]

NARROW = {
    "vision_config": {
        "hidden_size": 24,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "mlp_ratio": 2.0,
        "output_channels": 32,
        "global_attn_indexes": [1],
        "num_pos_feats": 16,
        "initializer_range": 0.1,
    },
    "prompt_encoder_config": {"hidden_size": 32, "mask_input_channels": 8},
    "mask_decoder_config": {
        "hidden_size": 32,
        "mlp_dim": 48,
        "num_attention_heads": 4,
        "iou_head_hidden_dim": 32,
        "vit_dim": 24,
    },
}


@torch.no_grad()
def write(folder: Path, config: SamHQConfig) -> Path:
    """Writes a folder whose masks are neither empty nor full, with logits beyond 32."""
    torch.manual_seed(5)
    model = SamHQModel(config)
    for name, parameter in model.named_parameters():
        if parameter.ndim > 1 and not name.startswith("vision_encoder"):
            parameter.normal_(0, 0.2)
        elif name.endswith(("rel_pos_h", "rel_pos_w", "pos_embed")):
            parameter.normal_(0, 0.1)
    decoder = model.mask_decoder
    for network in (*decoder.output_hypernetworks_mlps, decoder.hq_mask_mlp):
        network.proj_out.weight *= 30
    model.save_pretrained(folder)
    SamHQProcessor(SamImageProcessor()).save_pretrained(folder)
    return folder


@cache
def _folder(root: Path) -> Path:
    return write(root / "sam_hq", SamHQConfig(**NARROW))


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Iterator[Path]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield _folder(tmp_path_factory.getbasetemp())
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def ours(folder) -> SamHq:
    return load(ModelFiles(folder), "cpu")


@pytest.fixture(scope="module")
def reference(folder) -> "Reference":
    return Reference(folder)


class Reference:
    """transformers' documented way, from a picture and prompts in its pixels to masks."""

    def __init__(self, folder: Path) -> None:
        self.model = SamHQModel.from_pretrained(folder, local_files_only=True).eval()
        self.processor = SamHQProcessor.from_pretrained(folder, local_files_only=True)

    @torch.no_grad()
    def __call__(self, image: np.ndarray, prompts: list[ObjectPrompt], multimask: bool):
        """(N, C, H, W) logits at the picture's size, (N, C) scores, (N, C, 256, 256) logits."""
        asked = {}
        if len(prompts[0].points):
            asked["input_points"] = [[prompt.points.tolist() for prompt in prompts]]
            asked["input_labels"] = [[prompt.labels.tolist() for prompt in prompts]]
        if prompts[0].box:
            corners = [[p.box.x_min, p.box.y_min, p.box.x_max, p.box.y_max] for p in prompts]
            asked["input_boxes"] = [corners]
        inputs = self.processor(images=[image], input_data_format="channels_last", return_tensors="pt", **asked)
        sizes, reshaped = inputs.pop("original_sizes"), inputs.pop("reshaped_input_sizes")
        inputs = {key: value.float() if value.is_floating_point() else value for key, value in inputs.items()}
        if prompts[0].logits is not None:
            inputs["input_masks"] = torch.from_numpy(prompts[0].logits)[None, None]
        output = self.model(**inputs, multimask_output=multimask)
        masks = self.processor.post_process_masks(output.pred_masks, sizes, reshaped, binarize=False)
        return masks[0].numpy(), output.iou_scores[0].numpy(), output.pred_masks[0].numpy()


def full_size(model: SamHq, query: DecodeQuery, candidates: Candidates) -> np.ndarray:
    queries = [MaskQuery(query.embedding, logits, 0.0) for logits in candidates.logits]
    return np.stack([patch.whole() for patch in model.masks(queries)])


def assert_same(model: SamHq, query: DecodeQuery, candidates: Candidates, upscaled, scores, logits) -> None:
    np.testing.assert_allclose(candidates.predicted_iou, scores, rtol=0, atol=1e-4)
    np.testing.assert_allclose(candidates.logits, logits, rtol=1e-5, atol=1e-4)
    differs = full_size(model, query, candidates) != (upscaled > 0)
    assert np.abs(upscaled[differs]).max(initial=0) < 2e-3
    assert np.count_nonzero(differs) <= 3


@pytest.mark.parametrize("multimask", [True, False])
@pytest.mark.parametrize(
    ("picture", "kind"),
    [("square", kind) for kind in KINDS]
    + [(name, kind) for name in list(PICTURES)[1:] for kind in ("point", "box and points", "mask")],
)
def test_a_prompt_is_answered_as_by_transformers(ours, reference, picture, kind, multimask):
    """Masks are the same but for 3 pixels at most; scores and logits agree to 1e-4."""
    image = PICTURES[picture]()
    rows, columns = np.mgrid[:256, :256]
    earlier = (40 - 0.6 * np.hypot(rows - 90, columns - 120)).astype(np.float32)
    prompt = KINDS[kind](image.shape[:2], earlier).prompt
    (embedding,) = ours.encode([image])
    query = DecodeQuery(embedding, prompt, multimask)
    upscaled, scores, logits = reference(image, [prompt], multimask)
    assert_same(ours, query, ours.decode([query])[0], upscaled[0], scores[0], logits[0])


def test_many_objects_are_answered_as_by_transformers(ours, reference):
    """Boxes of one picture share a call; masks among the prompts take one each; all are in their order."""
    image = PICTURES["wide"]()
    boxes = [Box(20, 30, 200, 150), Box(100, 10, 400, 90), Box(0, 0, 640, 160)]
    prompts = [ObjectPrompt(box=box) for box in boxes]
    (embedding,) = ours.encode([image])
    queries = [DecodeQuery(embedding, prompt, multimask=True) for prompt in prompts]
    expected = reference(image, prompts, multimask=True)
    answers = ours.decode(queries)
    for query, candidates, *each in zip(queries, answers, *expected, strict=True):
        assert_same(ours, query, candidates, *each)
    refined = [
        DecodeQuery(embedding, ObjectPrompt(box=box, logits=answer.logits[0]), multimask=False)
        for box, answer in zip(boxes, answers, strict=True)
    ]
    for query, candidates in zip(refined, ours.decode(refined), strict=True):
        upscaled, scores, logits = reference(image, [query.prompt], multimask=False)
        assert_same(ours, query, candidates, upscaled[0], scores[0], logits[0])


def test_answers_are_plentiful(ours):
    """The weights under test are no constant: masks differ by prompt, cover a part, and have logits beyond 32."""
    image = PICTURES["square"]()
    (embedding,) = ours.encode([image])
    kinds = ("point", "box", "box and points")
    prompts = [KINDS[kind](image.shape[:2], np.zeros((256, 256), np.float32)).prompt for kind in kinds]
    queries = [DecodeQuery(embedding, prompt, multimask=True) for prompt in prompts]
    answers = ours.decode(queries)
    masks = [full_size(ours, query, answer) for query, answer in zip(queries, answers, strict=True)]
    assert all(0.02 < each.mean() < 0.98 for mask in masks for each in mask)
    assert all((one != other).mean() > 0.005 for i, one in enumerate(masks) for other in masks[:i])
    assert max(np.abs(answer.logits).max() for answer in answers) > 32


def test_pictures_of_many_sizes_share_a_batch(ours):
    """Each embedding is what it is alone, owns its memory, and serves the narrowest pictures too."""
    pictures = [PICTURES["tall"](), PICTURES["tiny"](), np.full((1, 5000, 3), 80, np.uint8)]
    for picture, embedding in zip(pictures, ours._embed(pictures), strict=True):
        (alone,) = ours.encode([picture])
        torch.testing.assert_close(embedding.features, alone.features, rtol=0, atol=1e-4)
        assert embedding.nbytes == alone.nbytes == 4 * 64 * 64 * (32 + 24)
        assert embedding.image_size == picture.shape[:2]


def test_a_grid_is_sifted_as_prompts_are_decoded(ours):
    """Its masks are those of the prompts, measured at the picture's size."""
    image = PICTURES["tall"]()
    (embedding,) = ours.encode([image])
    mask_filter = MaskFilter(mask_threshold=0.0, predicted_iou=0.0, stability_score=0.0, stability_offset=1.0)
    spots = [(30.0, 40.0), (80.0, 220.0)]
    filtered = ours.filtered_masks([PointQuery(embedding, spot, mask_filter, with_logits=True) for spot in spots])
    label = np.ones(1, np.int32)
    prompts = [ObjectPrompt(points=np.array([spot], np.float32), labels=label) for spot in spots]
    queries = [DecodeQuery(embedding, prompt, multimask=True) for prompt in prompts]
    for found, query, candidates in zip(filtered, queries, ours.decode(queries), strict=True):
        for one, mask, logits, iou in zip(
            found.kept, full_size(ours, query, candidates), candidates.logits, candidates.predicted_iou, strict=True
        ):
            assert np.count_nonzero(decoded(one.mask) != mask) <= 3
            np.testing.assert_array_equal(one.logits, logits)
            assert one.predicted_iou == pytest.approx(float(iou), abs=1e-6)
            assert 0 < one.stability_score < 1


def decoded(rle: Rle) -> np.ndarray:
    return rle_decode(rle.height, rle.width, rle.counts)


def test_it_is_a_segmenter_and_a_sifter(ours):
    """It fills in both Protocols, and refuses foreign embeddings."""
    assert isinstance(ours, Segmenter)
    assert isinstance(ours, GridSegmenter)

    class Foreign:
        image_size = (5, 5)
        nbytes = 0

    with pytest.raises(TypeError, match="Foreign"):
        ours.decode([DecodeQuery(Foreign(), ObjectPrompt(box=Box(0, 0, 4, 4)), multimask=False)])


def change(path: Path, **values) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


@pytest.mark.parametrize(
    ("spoil", "text"),
    [
        (lambda f: (f / "model.safetensors").unlink(), "cannot be loaded"),
        (lambda f: (f / "model.safetensors").write_bytes((f / "model.safetensors").read_bytes()[:5000]), "damaged"),
        (lambda f: change(f / "config.json", model_type="sam"), "expected 'sam_hq'"),
        (lambda f: (f / processor_file(f)).unlink(), "no readable SamHQProcessor"),
        (lambda f: spoil_processor(f, do_pad=False), "prepares pictures for another model"),
        (lambda f: spoil_processor(f, size={"longest_edge": 512}), "prepares pictures for another model"),
    ],
)
def test_a_folder_that_cannot_be_used_says_why(folder, tmp_path, spoil, text):
    """Files that are missing, cut short or of another model are told apart."""
    copy = shutil.copytree(folder, tmp_path / "copy")
    spoil(copy)
    with pytest.raises(FailedPreconditionError, match=text):
        load(ModelFiles(copy), "cpu")


def processor_file(folder: Path) -> str:
    return next(name for name in ("processor_config.json", "preprocessor_config.json") if (folder / name).exists())


def spoil_processor(folder: Path, **values) -> None:
    path = folder / processor_file(folder)
    content = json.loads(path.read_text())
    content.get("image_processor", content).update(values)
    path.write_text(json.dumps(content))


@pytest.mark.full_size(gigabytes=3)
def test_the_full_size_vit_b_has_its_size_and_form(tmp_path):
    """The published ViT-B has its parameters and its memory; three of its twelve blocks give an answer of its form.

    Two of them look at windows and one at the whole picture, as wide as published; the other nine are these again.
    """
    model = SamHQModel(SamHQConfig())
    count = sum(parameter.numel() for parameter in model.parameters())
    assert 94_000_000 < count < 96_000_000
    model.save_pretrained(tmp_path)
    SamHQProcessor(SamImageProcessor()).save_pretrained(tmp_path)
    # The encoder's relative positions are gathered: 8.5 MB more.
    assert 4 * count <= load(ModelFiles(tmp_path), "cpu").nbytes < 1.03 * 4 * count

    vision, decoder = model.config.vision_config, model.config.mask_decoder_config
    assert (vision.global_attn_indexes, vision.hidden_size, decoder.vit_dim) == ((2, 5, 8, 11), 768, 768)
    vision.num_hidden_layers, vision.global_attn_indexes = 3, (2,)
    model.vision_encoder.layers = model.vision_encoder.layers[:3]
    model.save_pretrained(tmp_path)
    ours = load(ModelFiles(tmp_path), "cpu")
    (embedding,) = ours.encode([PICTURES["wide"]()])
    assert embedding.nbytes == 4 * 64 * 64 * (256 + 768)
    (answer,) = ours.decode([DecodeQuery(embedding, ObjectPrompt(box=Box(10, 10, 300, 100)), multimask=True)])
    assert answer.logits.shape == (3, 256, 256)
    assert np.isfinite(answer.logits).all()
    assert np.isfinite(answer.predicted_iou).all()
