"""Folders of Grounding DINO that cannot be used are refused with what to do; the published size loads and answers."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from asking import Ask, detect
from cutout_server.errors import FailedPreconditionError
from cutout_server.models.grounding_dino import GroundingDino
from cutout_server.models.registry import FAMILIES
from cutout_server.models.runtime import EXACT
from cutout_server.types import ModelFiles
from grounding_dino_checkpoints import (  # noqa: F401 - fixtures
    grounding_dino_folder,
    liven,
    mm_grounding_dino_folder,
    one_thread,
    tokenizer,
)
from safetensors.torch import load_file, save_file
from sam2_cases import PICTURES
from transformers import (
    BertConfig,
    BertTokenizer,
    GroundingDinoConfig,
    GroundingDinoForObjectDetection,
    GroundingDinoImageProcessor,
    GroundingDinoProcessor,
)

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_thread")]


def load(folder: Path, device: str = "cpu", **options: object) -> GroundingDino:
    return FAMILIES["grounding-dino"].load(ModelFiles(folder, **options), device, EXACT)


def _edit(folder: Path, file: str, *keys: str, value: object) -> None:
    content = place = json.loads((folder / file).read_text())
    for key in keys[:-1]:
        place = place[key]
    place[keys[-1]] = value
    (folder / file).write_text(json.dumps(content))


def _truncate(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:5000])


def _drop(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    del weights["model.text_projection.bias"]
    save_file(weights, folder / "model.safetensors", {"format": "pt"})


def _pickle(folder: Path) -> None:
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


def _other_marks(folder: Path) -> None:
    vocab = tokenizer().get_vocab()
    vocab["."], vocab["cat"] = vocab["cat"], vocab["."]
    BertTokenizer(vocab=vocab).save_pretrained(folder)


def _more_words(folder: Path) -> None:
    BertTokenizer(vocab={**tokenizer().get_vocab(), "new": len(tokenizer())}).save_pretrained(folder)


SPOILT: dict[str, tuple[Callable[[Path], object], str]] = {
    "truncated": (_truncate, "damaged"),
    "a part": (_drop, r"does not fit its config.json \(missing model.text_projection.bias\)"),
    "pickled": (_pickle, "cannot be loaded"),
    "another model": (lambda f: _edit(f, "config.json", "model_type", value="owlv2"), "'owlv2'; expected 'grounding-d"),
    "other width": (lambda f: _edit(f, "config.json", "d_model", value=64), "does not fit its config.json"),
    "nonsense": (lambda f: _edit(f, "config.json", "d_model", value="wide"), "no readable|cannot be loaded"),
    "no config": (lambda f: (f / "config.json").unlink(), "no readable config.json"),
    "no processor": (lambda f: (f / "processor_config.json").unlink(), "no readable GroundingDinoProcessor"),
    "no tokenizer": (lambda f: (f / "tokenizer.json").unlink(), "no readable|of which|the tokenizer has"),
    "other marks": (_other_marks, "the tokenizer has .* take the tokenizer of the model"),
    "other tokenizer": (_more_words, "of different models"),
    "no scaling": (
        lambda f: _edit(f, "processor_config.json", "image_processor", "do_normalize", value=False),
        "prepares pictures for another model",
    ),
    "a fixed size": (
        lambda f: _edit(f, "processor_config.json", "image_processor", "size", value={"height": 96, "width": 96}),
        "prepares pictures for another model",
    ),
}


@pytest.mark.parametrize("case", SPOILT)
def test_folders_that_cannot_be_used(grounding_dino_folder: Path, tmp_path: Path, case: str):  # noqa: F811
    """Each says what is wrong and what to do."""
    spoil, expected = SPOILT[case]
    copy = Path(shutil.copytree(grounding_dino_folder, tmp_path / "copy"))
    spoil(copy)
    with pytest.raises(FailedPreconditionError, match=expected) as error:
        load(copy)
    assert len(str(error.value)) < 900


def test_settings_that_cannot_be_used(grounding_dino_folder: Path, tmp_path: Path):  # noqa: F811
    """What nothing would read is refused, and so are folders and devices that are not there."""
    with pytest.raises(FailedPreconditionError, match="companions must not be set"):
        load(grounding_dino_folder, companions={"text_encoder": tmp_path})
    with pytest.raises(FailedPreconditionError, match="config must not be set"):
        load(grounding_dino_folder, config="tiny")
    with pytest.raises(FailedPreconditionError, match="is not a folder"):
        load(tmp_path / "none")
    with pytest.raises(FailedPreconditionError, match="there is no device cuda:7"):
        load(grounding_dino_folder, "cuda:7")


def test_half_precision_files(grounding_dino_folder: Path, tmp_path: Path):  # noqa: F811
    """They are served in float32."""
    copy = Path(shutil.copytree(grounding_dino_folder, tmp_path / "copy"))
    weights = {name: tensor.half() for name, tensor in load_file(copy / "model.safetensors").items()}
    save_file(weights, copy / "model.safetensors", {"format": "pt"})
    _edit(copy, "config.json", "dtype", value="float16")
    whole, halved = load(grounding_dino_folder), load(copy)
    assert halved.nbytes == whole.nbytes
    query = Ask(PICTURES["square"](), ("cat", "red sofa"), 0.0, 0.0)
    assert len(detect(halved, [query])[0]) == len(detect(whole, [query])[0])


def test_the_files_of_the_hub(grounding_dino_folder: Path, tmp_path: Path):  # noqa: F811
    """Published folders have the processor in a file of its own, and no norm behind the backbone's last stage."""
    copy = Path(shutil.copytree(grounding_dino_folder, tmp_path / "copy"))
    images = json.loads((copy / "processor_config.json").read_text())["image_processor"]
    (copy / "processor_config.json").unlink()
    (copy / "preprocessor_config.json").write_text(json.dumps(images))
    tokenizer().save_pretrained(copy)
    weights = load_file(copy / "model.safetensors")
    fewer = {name: tensor for name, tensor in weights.items() if ".swin.layernorm." not in name}
    assert len(fewer) == len(weights) - 2
    save_file(fewer, copy / "model.safetensors", {"format": "pt"})
    query = Ask(PICTURES["square"](), ("cat", "red sofa"), 0.0, 0.0)
    assert detect(load(copy), [query]) == detect(load(grounding_dino_folder), [query])


@pytest.mark.full_size(gigabytes=3)
def test_tiny(tmp_path: Path):
    """The published size: 172 million parameters, 900 boxes of a small photograph; equal to the reference but for ties.

    Places that tie for a rank may change it. With random weights a rank's own embedding would make another box of the
    same place, of which all other queries hear; here all ranks have the same.
    """
    torch.set_num_threads(2)  # Set back by the module's fixture.
    words = tokenizer().get_vocab()
    vocab = [*sorted(words, key=words.get), *(f"[unused{place}]" for place in range(len(words), 30522))]
    whole = BertTokenizer(vocab={word: place for place, word in enumerate(vocab)})
    model = GroundingDinoForObjectDetection(GroundingDinoConfig(text_config=BertConfig())).eval()
    liven(model)
    ranks = model.model.query_position_embeddings.weight
    with torch.no_grad():
        ranks.copy_(ranks[:1].clone())
    parameters = sum(parameter.numel() for parameter in model.parameters())
    assert 171_000_000 < parameters < 174_000_000
    model.save_pretrained(tmp_path)
    images = GroundingDinoImageProcessor(size={"shortest_edge": 480, "longest_edge": 800})
    processor = GroundingDinoProcessor(images, whole)
    processor.save_pretrained(tmp_path)
    detector = load(tmp_path)
    assert 4 * parameters <= detector.nbytes < 4.02 * parameters
    image = PICTURES["wide"]()
    query = Ask(image, ("cat", "fluffhy astronaut", "remote control"), 0.0, 0.0)
    (found,) = detect(detector, [query])
    with torch.inference_mode():
        outputs = model(**processor(images=image, text=[list(query.phrases)], return_tensors="pt"))
    (expected,) = processor.post_process_grounded_object_detection(
        outputs, threshold=0.0, target_sizes=[image.shape[:2]]
    )
    assert len(found) == 900
    boxes = [(each.box.x_min, each.box.y_min, each.box.x_max, each.box.y_max) for each in found]
    boxes_apart = np.abs(np.array(boxes) - expected["boxes"].numpy()).max(axis=1) / image.shape[1]
    scores_apart = np.abs(np.array([each.score for each in found]) - expected["scores"].numpy())
    assert np.quantile(boxes_apart, 0.99) < 2e-5
    assert np.quantile(scores_apart, 0.99) < 1e-5
    assert len({each.phrase_index for each in found}) >= 2
