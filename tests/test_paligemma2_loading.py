"""What PaliGemma 2 is loaded from, and what is said when it cannot be."""

# ruff: noqa: F811 - fixtures are imported

import io
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from cutout_server.errors import FailedPreconditionError
from cutout_server.models.paligemma2 import PaliGemma2, load, mask_decoder
from cutout_server.models.paligemma2.mask_decoder import read_mask_decoder
from cutout_server.models.queries import TextQuery
from cutout_server.types import ModelFiles
from paligemma_checkpoints import (
    PaliGemmaFiles,
    gemma_tokenizer,
    one_thread,  # noqa: F401
    paligemma,  # noqa: F401
    paligemma_files,  # noqa: F401
    teach_grammar,
)
from random_weights import scattered
from transformers import (
    Gemma2Config,
    PaliGemmaConfig,
    PaliGemmaForConditionalGeneration,
    PaliGemmaProcessor,
    SiglipImageProcessor,
    SiglipVisionConfig,
)

pytestmark = pytest.mark.slow


@pytest.fixture
def copy(paligemma_files: PaliGemmaFiles, tmp_path: Path) -> PaliGemmaFiles:
    """Files that may be broken."""
    folder = shutil.copytree(paligemma_files.folder, tmp_path / "model")
    decoder = shutil.copy(paligemma_files.mask_decoder, tmp_path / "vae-oid.npz")
    return PaliGemmaFiles(folder, Path(decoder))


def edit(path: Path, **changes: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def refused(files: ModelFiles, match: str, device: str = "cpu") -> None:
    with pytest.raises(FailedPreconditionError, match=match):
        load(files, device)


def test_weights_keep_the_dtype_of_the_folder(copy: PaliGemmaFiles, paligemma: PaliGemma2, photos):
    """bfloat16 takes half the memory and finds objects all the same; the mask decoder stays float32."""
    model = PaliGemmaForConditionalGeneration.from_pretrained(copy.folder, dtype=torch.bfloat16)
    model.save_pretrained(copy.folder)
    halved = load(copy.model_files, "cpu")
    whole = paligemma.nbytes
    decoder = sum(tensor.nbytes for tensor in read_mask_decoder(copy.mask_decoder).state_dict().values())
    assert halved.nbytes - decoder == pytest.approx((whole - decoder) / 2, rel=0.01)
    (finds,) = halved.segment_text([TextQuery(*halved.encode([photos["coffee"].pixels]), ("cat", "a cup"), 0.0)])
    assert {find.phrase_index for find in finds} == {0, 1}
    assert all(find.logits.dtype == np.float32 for find in finds)


def test_the_folder(copy: PaliGemmaFiles):
    """Whatever is wrong with it, the error says what to do."""
    files = copy.model_files
    refused(replace(files, checkpoint=copy.mask_decoder), "is not a folder")
    refused(replace(files, config="paligemma2-3b-mix-224"), "config must not be set")
    refused(files, "there is no device cuda:77", "cuda:77")
    edit(copy.folder / "config.json", model_type="siglip")
    refused(files, "model_type 'siglip'; expected 'paligemma'")
    (copy.folder / "config.json").unlink()
    refused(files, "no readable config.json")


@pytest.mark.parametrize("name", ["tokenizer.json", "processor_config.json", "model.safetensors"])
def test_files_that_are_missing_or_damaged(copy: PaliGemmaFiles, name):
    """Half a file and none are told, not crashed over."""
    path = copy.folder / name
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    refused(copy.model_files, "download")
    path.unlink()
    with pytest.raises(FailedPreconditionError):
        load(copy.model_files, "cpu")


def test_the_processor_of_another_resolution(copy: PaliGemmaFiles):
    """A processor that makes other pictures or other tokens than the model looks at is refused."""
    path = copy.folder / "processor_config.json"
    whole = json.loads(path.read_text())
    images = whole["image_processor"]
    for change in ({"size": {"height": 70, "width": 70}}, {"image_seq_length": 25}, {"do_normalize": False}):
        edit(path, image_processor=images | change)
        refused(copy.model_files, "another model: expected one for pictures of 56 x 56")
    edit(path, image_processor=images)
    assert load(copy.model_files, "cpu").nbytes > 0
    edit(copy.folder / "config.json", image_token_index=7)
    refused(copy.model_files, "the tokens of config.json")


def broken(path: Path, **changes: np.ndarray | None) -> None:
    """Rewrites a mask decoder; None leaves an array out. Names have __ for the dots."""
    with np.load(path) as archive:
        arrays = dict(archive)
    for key, value in changes.items():
        name = key.replace("__", ".")
        if value is None:
            del arrays[name]
        else:
            arrays[name] = value
    np.savez(path, **arrays)


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"decoder__12__weight": None}, "missing decoder.12.weight"),
        ({"decoder__4__weight": np.zeros((128, 64, 4, 4), np.float32)}, "other shape decoder.4.weight"),
        ({"decoder__14__weight": np.zeros(3, np.float32)}, "unexpected decoder.14.weight"),
        ({"decoder__0__bias": np.zeros(128, np.int64)}, "not numbers decoder.0.bias"),
        ({"decoder__0__bias": np.full(128, "x")}, "not numbers decoder.0.bias"),
        ({"_vq_vae._embedding": None}, "missing codebook"),
        ({"_vq_vae._embedding": np.zeros((64, 512), np.float32)}, "other shape codebook"),
        ({"_vq_vae._embedding": np.zeros(512, np.float32)}, "other shape codebook"),
        ({"decoder__0__bias": np.array([{}] * 128, object)}, "damaged"),
    ],
)
def test_a_mask_decoder_of_another_kind(copy: PaliGemmaFiles, changes, match):
    """Arrays that are missing, too many, of another shape or pickled; the error says where the right file is."""
    broken(copy.mask_decoder, **changes)
    refused(copy.model_files, match)
    refused(copy.model_files, "download vae-oid.npz from gs://big_vision/paligemma")


def test_a_mask_decoder_that_is_no_such_file(copy: PaliGemmaFiles, tmp_path: Path):
    """None, a folder, half of it, a pointer, nothing, a changed byte, a single array."""
    files = copy.model_files
    refused(replace(files, companions={}), "mask_decoder None is not a file")
    refused(replace(files, companions={"mask_decoder": tmp_path}), "is not a file")
    whole = copy.mask_decoder.read_bytes()
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 0xFF  # Zip files carry checksums.
    for content in (whole[: len(whole) // 2], b"version https://git-lfs.github.com/spec/v1\n", b"", bytes(flipped)):
        copy.mask_decoder.write_bytes(content)
        refused(files, "damaged, or no npz file: download")
    single = io.BytesIO()
    np.save(single, np.zeros(3, np.float32))
    copy.mask_decoder.write_bytes(single.getvalue())
    refused(files, "is a single array: download")


def test_a_mask_decoder_that_would_fill_the_memory(copy: PaliGemmaFiles, monkeypatch: pytest.MonkeyPatch):
    """Its index tells, before anything is unpacked."""
    monkeypatch.setattr(mask_decoder, "_MAX_UNPACKED_BYTES", copy.mask_decoder.stat().st_size // 2)
    refused(copy.model_files, "would take .* bytes")


def test_an_encoder_beside_it_is_not_needed(copy: PaliGemmaFiles):
    """The file may hold the decoder alone, in any floating dtype."""
    with np.load(copy.mask_decoder) as archive:
        arrays = {key: value.astype(np.float64) for key, value in archive.items() if "encoder." not in key}
    whole = read_mask_decoder(copy.mask_decoder).masks([range(16)])
    np.savez(copy.mask_decoder, **arrays)
    assert np.array_equal(read_mask_decoder(copy.mask_decoder).masks([range(16)]), whole)


def test_the_published_size_has_its_parameters(paligemma_files: PaliGemmaFiles):
    """PaliGemma 2 3B at 224 pixels in bfloat16: as many parameters as published, 6.1 GB; none of them is made."""
    processor = published_processor()
    with torch.device("meta"):
        model = PaliGemmaForConditionalGeneration(published(processor)).bfloat16()
        model.tie_weights()
    # 3032094960 in the authors' own vocabulary, of 64 tokens fewer than the one that is padded for transformers.
    assert sum(parameter.numel() for parameter in model.parameters()) == 3_032_094_960 + 64 * 2304
    found = PaliGemma2(model, processor, read_mask_decoder(paligemma_files.mask_decoder))
    assert found.nbytes / 1e9 == pytest.approx(6.07, abs=0.05)


@pytest.mark.full_size(gigabytes=4)
def test_full_size(paligemma_files: PaliGemmaFiles, photos):
    """Two layers of each tower in their published widths, with the published vocabulary: whole objects.

    The language model's are the one that attends to everything and the one that attends to a window.
    """
    processor = published_processor()
    config = published(processor, layers=2)
    assert set(config.text_config.layer_types) == {"sliding_attention", "full_attention"}
    model = scattered(lambda: PaliGemmaForConditionalGeneration(config), torch.bfloat16)
    model.tie_weights()
    found = PaliGemma2(model, processor, read_mask_decoder(paligemma_files.mask_decoder), max_new_tokens=24)
    embedding = model.model.language_model.embed_tokens.weight
    # Of the tokens that the small tokenizer knows; the rest of the full head would only be slower.
    head = torch.randn(len(processor.tokenizer), 2304, generator=torch.Generator().manual_seed(2)).div_(10).bfloat16()
    teach_grammar(embedding, head, processor.tokenizer)
    head.div_(10)  # Logits beyond 30 would all become 30.
    model.lm_head.weight = torch.nn.Parameter(head, requires_grad=False)
    (finds,) = found.segment_text([TextQuery(*found.encode([photos["astronaut"].pixels]), ("cat", "a dog"), 0.0)])
    assert {find.phrase_index for find in finds} == {0, 1}
    for find in finds:
        assert 0 <= find.box.x_min < find.box.x_max <= 512
        assert 0 <= find.box.y_min < find.box.y_max <= 512
        assert 0 < find.score < 1
        assert find.logits.shape == (64, 64)


def published_processor() -> PaliGemmaProcessor:
    """Of pictures of 224 pixels."""
    images = SiglipImageProcessor(size={"height": 224, "width": 224})
    images.image_seq_length = 256
    return PaliGemmaProcessor(images, gemma_tokenizer())


def published(processor: PaliGemmaProcessor, layers: int | None = None) -> PaliGemmaConfig:
    """The published architecture, or so many layers of each of its towers."""
    vision = SiglipVisionConfig(
        hidden_size=1152,
        intermediate_size=4304,
        num_hidden_layers=layers or 27,
        num_attention_heads=16,
        image_size=224,
        patch_size=14,
        vision_use_head=False,
    )
    fewer = {} if layers is None else {"num_hidden_layers": layers}
    return PaliGemmaConfig(
        vision_config=vision.to_dict(),
        text_config=Gemma2Config(vocab_size=257216, **fewer).to_dict(),  # Whose other defaults are those of 2B.
        image_token_index=processor.image_token_id,
        projection_dim=2304,
        hidden_size=2304,
    )
