"""SAM 3's folders: what loads, what does not and why, and the published size."""

# ruff: noqa: F811 - fixtures are imported

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from clip_checkpoints import clip_tokenizer
from cutout_server.errors import FailedPreconditionError
from cutout_server.models.queries import DecodeQuery, TextQuery
from cutout_server.models.sam3 import Sam3, load
from cutout_server.types import Box, ModelFiles, ObjectPrompt
from folders import change, truncate
from safetensors.torch import load_file, save_file
from sam2_cases import PICTURES
from sam3_checkpoints import rename, sam3_folder, write_sam3  # noqa: F401 - a fixture
from transformers import Sam3VideoConfig


@pytest.fixture
def copy(sam3_folder, tmp_path) -> Path:
    return shutil.copytree(sam3_folder, tmp_path / "copy")


def answers(model: Sam3) -> list[np.ndarray]:
    """Of both halves."""
    image = PICTURES["tall"]()
    (embedding,) = model.encode([image])
    (finds,) = model.segment_text([TextQuery(embedding, ("cat",), 0.0)])
    prompt = ObjectPrompt(box=Box(10, 20, 90, 200))
    (candidates,) = model.decode([DecodeQuery(embedding, prompt, multimask=True)])
    return [*(find.logits for find in finds), candidates.logits, candidates.predicted_iou]


def test_a_folder_saved_again_loads_too(sam3_folder, copy):
    """The transformers of today write the tracker's prefix twice, and read it so no more."""
    rename(copy / "model.safetensors", "tracker_model.", "tracker_model.tracker_model.")
    as_released, again = (answers(load(ModelFiles(folder), "cpu")) for folder in (sam3_folder, copy))
    for one, other in zip(as_released, again, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-4)


def without(folder: Path, prefix: str) -> None:
    file = folder / "model.safetensors"
    kept = {key: each.clone() for key, each in load_file(file).items() if not key.startswith(prefix)}
    save_file(kept, file, metadata={"format": "pt"})


BACKBONE = ("vision_config", "backbone_config")


@pytest.mark.parametrize(
    ("spoil", "text"),
    [
        (lambda f: (f / "model.safetensors").unlink(), "cannot be loaded"),
        (truncate, "damaged"),
        (lambda f: without(f, "tracker_neck."), r"does not fit its config\.json \(missing vision_encoder\.neck"),
        (lambda f: without(f, "tracker_model.mask_decoder."), r"does not fit its config\.json \(missing mask_decoder"),
        (lambda f: without(f, "detector_model.detr_decoder."), r"does not fit its config\.json \(missing detr_decoder"),
        (lambda f: change(f / "config.json", "model_type", value="sam3"), "'sam3'; expected 'sam3_video'"),
        (lambda f: (f / "processor_config.json").unlink(), "no readable Sam3Processor"),
        (lambda f: change(f / "processor_config.json", "image_processor", "do_normalize", value=False), "prepares"),
        (
            lambda f: change(
                f / "processor_config.json", "image_processor", "size", value={"height": 1008, "width": 1008}
            ),
            "a size of 224",
        ),
        (lambda f: clip_tokenizer(["more"], model_max_length=32).save_pretrained(f), "of different models"),
        (
            lambda f: change(f / "config.json", "tracker_config", *BACKBONE, "layer_norm_eps", value=1e-3),
            "two backbones",
        ),
        (
            lambda f: change(f / "config.json", "detector_config", "detr_decoder_config", "num_queries", value=7),
            "other shape",
        ),
    ],
)
def test_a_folder_that_cannot_be_used_says_why(copy: Path, spoil: Callable[[Path], None], text: str):
    """Files that are missing, cut short, incomplete or of another model are told apart."""
    spoil(copy)
    with pytest.raises(FailedPreconditionError, match=text):
        load(ModelFiles(copy), "cpu")


@pytest.mark.slow
@pytest.mark.full_size(gigabytes=6)
def test_the_full_size_has_its_parameters_and_form(tmp_path):
    """The published architecture with random weights, at a quarter of its side."""
    config = Sam3VideoConfig()
    config.image_size = 252
    ours = load(ModelFiles(write_sam3(tmp_path, config, tamed=False)), "cpu")
    assert ours.nbytes == pytest.approx(3.41e9, rel=0.01)  # The backbone of 1.8 GB counts once.
    image = PICTURES["wide"]()
    (embedding,) = ours.encode([image])
    (finds,) = ours.segment_text([TextQuery(embedding, ("cat",), 0.0)])
    assert len(finds) == 200
    assert all(find.logits.shape == (72, 72) and np.isfinite(find.logits).all() for find in finds)
    assert embedding.nbytes == 4 * (72 * 72 * 32 + 36 * 36 * 64 + 18 * 18 * (256 + 1024))
    (answer,) = ours.decode([DecodeQuery(embedding, ObjectPrompt(box=Box(10, 10, 300, 100)), multimask=True)])
    assert answer.logits.shape == (3, 72, 72)
    assert np.isfinite(answer.logits).all()
    assert np.isfinite(answer.predicted_iou).all()
