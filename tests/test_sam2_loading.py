"""What SAM 2 is loaded from, and what is said when it cannot be."""

# ruff: noqa: F811 - a fixture is imported

import os
import pickle
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from checkpoints import narrow_config, official_config, sam2_files, write_sam2  # noqa: F401
from cutout_server.errors import FailedPreconditionError
from cutout_server.models.sam2 import architecture, load
from cutout_server.types import ModelFiles
from hydra.core.global_hydra import GlobalHydra
from hydra.utils import instantiate
from omegaconf import OmegaConf

OFFICIAL = [f"{version}_hiera_{size}" for version in ("sam2", "sam2.1") for size in ("t", "s", "b+", "l")]
LARGE = [pytest.param(name, marks=pytest.mark.slow) if name.endswith("_l") else name for name in OFFICIAL]


@pytest.mark.parametrize("name", LARGE)
def test_official_architectures_are_told_apart(name):
    """The checkpoint alone says which of the eight it is."""
    config = OmegaConf.load(official_config(f"{name.split('_')[0]}/{name}"))
    trunk = instantiate(config.model.image_encoder.trunk)
    weights = {f"image_encoder.trunk.{key}": value for key, value in trunk.state_dict().items()}
    if config.model.get("no_obj_embed_spatial"):
        weights["no_obj_embed_spatial"] = torch.zeros(1, 64)
    assert architecture.guess(weights) == name


def test_a_foreign_architecture_asks_for_a_config(sam2_files):
    """No guess is made where none is sure; the error lists what is known."""
    with pytest.raises(FailedPreconditionError, match="set config") as caught:
        load(ModelFiles(sam2_files.checkpoint), "cpu")
    assert all(name in caught.value.message for name in OFFICIAL)
    for weights in ({}, {"image_encoder.trunk.patch_embed.proj.weight": torch.tensor(0.0)}):
        with pytest.raises(FailedPreconditionError, match="set config"):
            architecture.guess(weights)


@pytest.mark.parametrize(
    "spelling",
    [
        "sam2.1_hiera_t",
        "sam2.1_hiera_t.yaml",
        "configs/sam2.1/sam2.1_hiera_t.yaml",
        "sam2.1_hiera_tiny",
        "facebook/sam2.1-hiera-tiny",
        str(official_config("sam2.1/sam2.1_hiera_t")),
    ],
)
def test_an_architecture_has_several_spellings(spelling):
    """The package's name and path, the checkpoint's name, the hub's id and a path of one's own all mean the same."""
    model = architecture.build(spelling)
    assert architecture.guess(model.state_dict()) == "sam2.1_hiera_t"
    assert model.sam_mask_decoder.dynamic_multimask_via_stability
    assert not model.training
    assert not any(parameter.requires_grad for parameter in model.parameters())


def test_hydras_global_state_is_left_alone(sam2_files):
    """Models can be built by several threads at once, whatever else uses hydra."""
    before = GlobalHydra.instance().hydra
    with ThreadPoolExecutor(4) as threads:
        jobs = [
            threads.submit(load, ModelFiles(sam2_files.checkpoint, str(sam2_files.config)), "cpu") for _ in range(4)
        ]
        assert len({job.result().nbytes for job in jobs}) == 1
    assert GlobalHydra.instance().hydra is before


def test_half_precision_weights_are_widened(sam2_files, tmp_path):
    """A checkpoint in float16, bare of its "model" key, runs in float32."""
    weights = torch.load(sam2_files.checkpoint, weights_only=True)["model"]
    torch.save({key: value.half() for key, value in weights.items()}, tmp_path / "half.pt")
    model = load(ModelFiles(tmp_path / "half.pt", str(sam2_files.config)), "cpu")
    assert {parameter.dtype for parameter in model._model.parameters()} == {torch.float32}


class Bomb:
    """Would make a folder if it were unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def broken_files(folder: Path, whole: bytes) -> dict[str, tuple[bytes, str]]:
    return {
        "empty": (b"", "is empty"),
        "lfs": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", "git lfs pull"),
        "page": (b"\n<!DOCTYPE html><html>Not found</html>", "is a web page"),
        "text": (b"Entry not found", "damaged"),
        "noise": (bytes(range(256)) * 64, "damaged"),
        "truncated": (whole[: len(whole) // 2], "damaged"),
        "cut early": (whole[:5], "damaged"),
        "bomb": (pickle.dumps({"model": Bomb(folder / "exploded")}), "never run"),
    }


@pytest.mark.parametrize("fault", broken_files(Path(), b""))
def test_a_broken_checkpoint_says_what_to_do(sam2_files, tmp_path, fault):
    """Each kind of damage has its own text; nothing in the file is run."""
    content, text = broken_files(tmp_path, sam2_files.checkpoint.read_bytes())[fault]
    path = tmp_path / "model.pt"
    path.write_bytes(content)
    with pytest.raises(FailedPreconditionError, match=text) as caught:
        load(ModelFiles(path, str(sam2_files.config)), "cpu")
    assert str(path) in caught.value.message
    assert not (tmp_path / "exploded").exists()


def test_a_bomb_in_the_official_container_is_not_run(sam2_files, tmp_path):
    """Nor is code that hides beside real tensors."""
    weights = torch.load(sam2_files.checkpoint, weights_only=True)["model"]
    torch.save({"model": weights, "extra": Bomb(tmp_path / "exploded")}, tmp_path / "model.pt")
    with pytest.raises(FailedPreconditionError, match="never run"):
        load(ModelFiles(tmp_path / "model.pt", str(sam2_files.config)), "cpu")
    assert not (tmp_path / "exploded").exists()
    with (tmp_path / "model.pt").open("rb") as file:
        torch.load(file, weights_only=False)
    assert (tmp_path / "exploded").exists(), "the bomb is a real one"


@pytest.mark.parametrize("content", [{}, {"model": {}}, {"model": {"weight": 1}}, [torch.zeros(1)], torch.zeros(1)])
def test_a_checkpoint_without_weights_is_refused(tmp_path, content):
    """A PyTorch file must hold a state dict."""
    torch.save(content, tmp_path / "model.pt")
    with pytest.raises(FailedPreconditionError, match='no tensors under "model"'):
        load(ModelFiles(tmp_path / "model.pt", "sam2.1_hiera_t"), "cpu")


def test_a_missing_checkpoint_is_named(tmp_path):
    """A file that is not there, a folder and no setting at all are told apart."""
    for path in (tmp_path / "absent.pt", tmp_path):
        with pytest.raises(FailedPreconditionError, match=f"{path} is not a file"):
            load(ModelFiles(path), "cpu")
    with pytest.raises(FailedPreconditionError, match="checkpoint is not set"):
        load(ModelFiles(), "cpu")


@pytest.mark.parametrize(
    ("changes", "texts"),
    [
        ({"no_obj_embed_spatial": False}, ["unexpected no_obj_embed_spatial"]),
        (
            {"image_encoder__trunk__stages": [1, 1, 3, 1]},
            ["missing image_encoder.trunk", "more", "other shape"],
        ),
        ({"memory_encoder__out_dim": 8, "memory_encoder__position_encoding__num_pos_feats": 8}, ["other shape"]),
    ],
)
def test_weights_of_another_architecture_are_refused(sam2_files, tmp_path, changes, texts):
    """A few of the keys that do not fit are named."""
    config = narrow_config(tmp_path, **changes)
    with pytest.raises(FailedPreconditionError, match="another architecture") as caught:
        load(ModelFiles(sam2_files.checkpoint, str(config)), "cpu")
    assert all(text in caught.value.message for text in texts)
    assert len(caught.value.message) < 1000


@pytest.mark.parametrize("device", ["cuda", "cuda:0", "cuda:99", "mps", "meta", "gpu", "cpu:1", "xpu", "", "CPU"])
def test_an_unknown_device_is_refused(sam2_files, device):
    """A model never runs on another device than it was told."""
    there = device.startswith("cuda") and device != "cuda:99" and torch.cuda.is_available()
    if there or (device == "mps" and torch.backends.mps.is_available()):
        pytest.skip("this machine has that device")
    with pytest.raises(FailedPreconditionError, match=f"no device {device}: this machine has cpu") as caught:
        load(ModelFiles(sam2_files.checkpoint, str(sam2_files.config)), device)
    assert ("CUDA build" in caught.value.message) == device.startswith("cuda")


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"memory_encoder___target_": "os.system"}, "_target_ os.system is no module class"),
        ({"memory_encoder___target_": "sam2.build_sam.os.system"}, "_target_ sam2.build_sam.os.system"),
        (
            {"memory_encoder___target_": "sam2.modeling.sam2_base.torch.load"},
            "_target_ sam2.modeling.sam2_base.torch.load",
        ),
        ({"memory_encoder___target_": "sam2.modeling.sam2_base.torch.nn.Linear"}, "torch.nn.Linear is no module class"),
        (
            {"memory_encoder___target_": "sam2.modeling.nowhere.Module"},
            "nowhere.Module is no module class",
        ),
        ({"memory_encoder___target_": 3}, "_target_ 3"),
        ({"extra": [{"_target_": "os.system"}]}, "_target_ os.system"),
        ({"image_encoder__trunk__weights_path": "other.pt"}, "weights_path must be null"),
        ({"image_size": 512}, "image_size must be 1024"),
        ({"unheard_of": 1}, "cannot be built"),
        ({"image_encoder__neck__backbone_channel_list": [1, 2, 3, 4]}, "cannot be built"),
    ],
)
def test_a_config_that_cannot_be_used_is_refused(sam2_files, tmp_path, changes, text):
    """Above all, a config reaches no code but the modules of sam2."""
    config = narrow_config(tmp_path, **changes)
    with pytest.raises(FailedPreconditionError, match=text) as caught:
        load(ModelFiles(sam2_files.checkpoint, str(config)), "cpu")
    assert str(config) in caught.value.message


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b"model: [", "cannot be read"),
        (b"\xff\xfe\x00", "cannot be read"),
        (b"model: {image_size: ${nowhere}}", "cannot be read"),
        (b"a: 1", "no section `model`"),
        (b"- 1", "no section `model`"),
        (b"", "no section `model`"),
        (b"model: 3", "no section `model`"),
    ],
)
def test_a_config_that_is_no_config_is_refused(sam2_files, tmp_path, content, text):
    """Files in another layout say so."""
    path = tmp_path / "config.yaml"
    path.write_bytes(content)
    with pytest.raises(FailedPreconditionError, match=text):
        load(ModelFiles(sam2_files.checkpoint, str(path)), "cpu")


def test_an_unknown_config_lists_the_known(sam2_files):
    """A misspelt name is answered with the right ones."""
    with pytest.raises(FailedPreconditionError, match="sam2_heira_t is neither") as caught:
        load(ModelFiles(sam2_files.checkpoint, "sam2_heira_t"), "cpu")
    assert all(name in caught.value.message for name in OFFICIAL)
