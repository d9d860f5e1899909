"""What SAM 1 is loaded from, and what is said when it cannot be."""

# ruff: noqa: F811 - a fixture is imported

import os
import pickle
import zipfile
from pathlib import Path

import pytest
import torch
from cutout_server.errors import FailedPreconditionError
from cutout_server.models.sam import architecture, load
from cutout_server.types import ModelFiles
from sam_checkpoints import official_model, sam_checkpoint  # noqa: F401
from segment_anything import sam_model_registry

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("name", ["vit_b", "vit_l", "vit_h"])
def test_official_architectures_are_told_apart(name):
    """The weights alone say which of the three it is, and what is built takes them all."""
    with torch.device("meta"):
        weights = sam_model_registry[name]().state_dict()
    assert architecture._encoder(weights) == architecture.OFFICIAL[name]
    with torch.device("meta"):
        built = architecture._sam(architecture.OFFICIAL[name], weights).state_dict()
    assert {key: value.shape for key, value in built.items()} == {key: value.shape for key, value in weights.items()}


def test_another_size_than_config_names_is_refused(sam_checkpoint):
    """A config is held against the weights."""
    with pytest.raises(FailedPreconditionError, match="config is vit_b, but the checkpoint is of another size"):
        load(ModelFiles(sam_checkpoint, "vit_b"), "cpu")
    with pytest.raises(FailedPreconditionError, match="config vit_x is unknown: expected one of vit_b, vit_l, vit_h"):
        load(ModelFiles(sam_checkpoint, "vit_x"), "cpu")


def test_every_weight_is_loaded(sam_checkpoint):
    """Also the parts whose sizes differ from the official ones."""
    weights = torch.load(sam_checkpoint, weights_only=True)
    model = load(ModelFiles(sam_checkpoint), "cpu")
    parts = model._model, model._encoder._module
    loaded = {key: value for part in parts for key, value in part.state_dict().items()}
    assert loaded.keys() == weights.keys()
    assert all(torch.equal(value, weights[key]) for key, value in loaded.items())
    assert torch.equal(model._model.pixel_mean, official_model().pixel_mean)
    assert torch.equal(model._model.pixel_std, official_model().pixel_std)
    assert not any(module.training for part in parts for module in part.modules())
    assert not any(parameter.requires_grad for part in parts for parameter in part.parameters())


def test_half_precision_weights_are_widened(sam_checkpoint, tmp_path):
    """A checkpoint in float16 runs in float32."""
    weights = torch.load(sam_checkpoint, weights_only=True)
    torch.save({key: value.half() for key, value in weights.items()}, tmp_path / "half.pth")
    model = load(ModelFiles(tmp_path / "half.pth"), "cpu")
    assert {parameter.dtype for parameter in model._model.parameters()} == {torch.float32}


class Bomb:
    """Would make a folder if it were unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_a_malicious_checkpoint_is_not_run(tmp_path):
    """Code beside the tensors is never unpickled."""
    path = tmp_path / "bomb.pth"
    path.write_bytes(pickle.dumps({"image_encoder.pos_embed": Bomb(tmp_path / "exploded")}))
    with pytest.raises(FailedPreconditionError, match="never run"):
        load(ModelFiles(path), "cpu")
    assert not (tmp_path / "exploded").exists()


def test_a_checkpoint_that_unpacks_to_more_than_it_is_is_refused_unread(sam_checkpoint, tmp_path, monkeypatch):
    """A file of kilobytes that would fill the memory is told by its index; nothing of it is unpacked."""
    path = tmp_path / "bomb.pth"
    with zipfile.ZipFile(sam_checkpoint) as whole, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as bomb:
        for entry in whole.infolist():
            bomb.writestr(entry.filename, bytes(entry.file_size * 20), zipfile.ZIP_DEFLATED)
    monkeypatch.setattr(torch, "load", lambda *_, **__: pytest.fail("it was unpacked"))
    with pytest.raises(FailedPreconditionError, match=f"has {path.stat().st_size} bytes and would take"):
        load(ModelFiles(path), "cpu")


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda w: {"weight": torch.zeros(3)}, "is not one of SAM 1"),
        (lambda w: {k: v for k, v in w.items() if "pos_embed" not in k}, "is not one of SAM 1"),
        (lambda w: w | {"image_encoder.pos_embed": torch.zeros(3)}, "is not one of SAM 1"),
        (lambda w: w | {"image_encoder.pos_embed": torch.zeros(1, 64, 64, 0)}, "is not one of SAM 1"),
        (lambda w: w | {"image_encoder.blocks.x.attn.rel_pos_h": torch.zeros(3)}, "is not one of SAM 1"),
        (lambda w: w | {"image_encoder.pos_embed": torch.zeros(1, 32, 32, 24)}, "other shape image_encoder.pos_embed"),
        (lambda w: {k: v for k, v in w.items() if "iou_token" not in k}, "missing mask_decoder.iou_token.weight"),
        (lambda w: w | {"mask_decoder.hf_token.weight": torch.zeros(1, 64)}, "unexpected mask_decoder.hf_token.weight"),
    ],
)
def test_weights_of_another_architecture_are_refused(sam_checkpoint, tmp_path, change, text):
    """The error says what does not fit."""
    torch.save(change(torch.load(sam_checkpoint, weights_only=True)), tmp_path / "other.pth")
    with pytest.raises(FailedPreconditionError, match=text):
        load(ModelFiles(tmp_path / "other.pth"), "cpu")


def test_a_truncated_checkpoint_says_what_to_do(sam_checkpoint, tmp_path):
    """Half a download is told from a whole one."""
    whole = sam_checkpoint.read_bytes()
    (tmp_path / "half.pth").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(FailedPreconditionError, match="damaged"):
        load(ModelFiles(tmp_path / "half.pth"), "cpu")
