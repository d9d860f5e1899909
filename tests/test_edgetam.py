"""EdgeTAM's folders: what loads, what does not and why, and the published size."""

# ruff: noqa: F811 - fixtures are imported

import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from conftest import run_server
from cutout_client import Client, InvalidRequestError
from cutout_server.errors import FailedPreconditionError
from cutout_server.models.edgetam import load
from cutout_server.models.pretrained import nbytes
from cutout_server.models.queries import DecodeQuery
from cutout_server.types import Box, ModelFiles, ObjectPrompt
from edgetam_checkpoints import backbone, edgetam_folder, edgetam_video_folder, write_edgetam  # noqa: F401 - fixtures
from folders import change, truncate
from safetensors.torch import load_file
from sam2_cases import PICTURES
from transformers import EdgeTamConfig, EdgeTamModel, EdgeTamVideoModel, EdgeTamVisionConfig


@pytest.fixture
def copy(edgetam_folder, tmp_path) -> Path:
    return shutil.copytree(edgetam_folder, tmp_path / "copy")


def test_the_video_models_folder_serves_pictures(edgetam_video_folder, tmp_path):
    """The released folder is one; pictures are answered as by the model for pictures, whose weights count once."""
    EdgeTamModel.from_pretrained(edgetam_video_folder).save_pretrained(tmp_path)
    shutil.copy(edgetam_video_folder / "processor_config.json", tmp_path)
    image, answers = PICTURES["tall"](), []
    for folder in (tmp_path, edgetam_video_folder):
        ours = load(ModelFiles(folder), "cpu")
        prompt = ObjectPrompt(box=Box(10, 20, 90, 200))
        answers += ours.decode([DecodeQuery(ours.encode([image])[0], prompt, multimask=True)])
    assert ours.nbytes == nbytes(EdgeTamVideoModel.from_pretrained(edgetam_video_folder))
    np.testing.assert_allclose(answers[0].logits, answers[1].logits, rtol=1e-5, atol=1e-4)
    np.testing.assert_allclose(answers[0].predicted_iou, answers[1].predicted_iou, rtol=0, atol=1e-5)


def test_a_folder_for_pictures_alone_is_no_tracker(tmp_path):
    """Its config.json says so before it is loaded; what is wrong with a damaged one shows then."""
    models = []
    for name, config in {
        "stills": '{"model_type": "edgetam"}',
        "video": '{"model_type": "edgetam_video"}',
        "bad": "[",
    }.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(config)
        models.append({"name": name, "family": "edgetam", "checkpoint": str(tmp_path / name)})
    with (
        run_server(models=models, default_segmenter="stills", preload=False) as server,
        Client(server.address) as client,
    ):
        listed = {model.name: model for model in client.models()}
        assert {name for name, model in listed.items() if "track" in model.tasks} == {"bad", "video"}
        assert all("everything" in model.tasks for model in listed.values())
        assert "track" in listed["video"].default_for
        with pytest.raises(InvalidRequestError) as refused:
            next(iter(client.live([np.zeros((9, 9, 3), np.uint8)], boxes=(1, 1, 5, 5), tracker="stills")))
        assert [violation.field for violation in refused.value.violations] == ["open.tracker"]


class Touch:
    """A pickle that writes a file when it is loaded."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[Path]]:
        return Path.touch, (self.path,)


def test_the_backbone_cannot_bring_a_pickle(copy):
    """Timm would unpickle the file that its argument names."""
    touched, evil = copy / "touched", copy / "evil.pth"
    evil.write_bytes(pickle.dumps(Touch(touched)))
    change(copy / "config.json", "vision_config", "backbone_config", "model_args", "checkpoint_path", value=str(evil))
    with pytest.raises(FailedPreconditionError, match=r"model_args may hold .*, got checkpoint_path"):
        load(ModelFiles(copy), "cpu")
    assert not touched.exists()


BACKBONE = ("vision_config", "backbone_config")


@pytest.mark.parametrize(
    ("spoil", "text"),
    [
        (lambda f: (f / "model.safetensors").unlink(), "cannot be loaded"),
        (truncate, "damaged"),
        (lambda f: change(f / "config.json", "model_type", value="sam2"), "expected 'edgetam' or 'edgetam_video'"),
        (lambda f: (f / "processor_config.json").unlink(), "no readable Sam2Processor"),
        (lambda f: change(f / "processor_config.json", "image_processor", "do_resize", value=False), "prepares"),
        (
            lambda f: change(
                f / "processor_config.json", "image_processor", "size", value={"height": 1024, "width": 1024}
            ),
            "a size of 256",
        ),
        (
            lambda f: change(f / "config.json", *BACKBONE, "architecture", value="hf-hub:some/model"),
            "must be the name of one in timm",
        ),
        (
            lambda f: change(f / "config.json", *BACKBONE, "architecture", value="local-dir:/some/model"),
            "must be the name of one in timm",
        ),
        (lambda f: change(f / "config.json", *BACKBONE, "architecture", value="nonesuch"), "cannot be loaded"),
        (lambda f: change(f / "config.json", *BACKBONE, "model_args", value=[1]), "model_args may hold"),
        (lambda f: change(f / "config.json", *BACKBONE, "model_type", value="resnet"), "must be a timm_wrapper"),
        (lambda f: change(f / "config.json", *BACKBONE, value="resnet"), "must be a timm_wrapper"),
        (
            lambda f: change(f / "config.json", "mask_decoder_config", "mlp_dim", value=48),
            "other shape mask_decoder",
        ),
    ],
)
def test_a_folder_that_cannot_be_used_says_why(copy: Path, spoil: Callable[[Path], None], text: str):
    """Files that are missing, cut short or of another model are told apart; a config fetches nothing."""
    spoil(copy)
    with pytest.raises(FailedPreconditionError, match=text):
        load(ModelFiles(copy), "cpu")


@pytest.mark.full_size(gigabytes=1)
def test_the_full_size_has_its_parameters_and_form(tmp_path):
    """The published architecture with random weights: its parameters, its memory, and an answer."""
    config = EdgeTamConfig(vision_config=EdgeTamVisionConfig(backbone_config=backbone()))
    folder = write_edgetam(tmp_path, config, tamed=False)
    ours = load(ModelFiles(folder), "cpu")
    count = sum(each.numel() for each in load_file(folder / "model.safetensors").values())
    assert 8_500_000 < count < 10_000_000
    assert ours.nbytes == pytest.approx(4 * count, rel=0.001)  # Counters of the batch norms are of 8 bytes.
    (embedding,) = ours.encode([PICTURES["wide"]()])
    assert embedding.nbytes == 4 * (256 * 256 * 32 + 128 * 128 * 64 + 64 * 64 * 256)
    (answer,) = ours.decode([DecodeQuery(embedding, ObjectPrompt(box=Box(10, 10, 300, 100)), multimask=True)])
    assert answer.logits.shape == (3, 256, 256)
    assert np.isfinite(answer.logits).all()
    assert np.isfinite(answer.predicted_iou).all()
