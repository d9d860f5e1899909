"""A small PaliGemma 2 folder and a mask decoder in the official formats, with seeded weights, and the reference."""

import re
import string
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from cutout_server.models.paligemma2 import PaliGemma2, load
from cutout_server.types import ModelFiles
from tokenizers import processors
from transformers import (
    Gemma2Config,
    GemmaConfig,
    GemmaTokenizer,
    PaliGemmaConfig,
    PaliGemmaForConditionalGeneration,
    PaliGemmaProcessor,
    PreTrainedConfig,
    SiglipImageProcessor,
    SiglipVisionConfig,
)

SIDE = 56  # Of what the small model looks at, in pixels.
PATCH = 14
WIDTH = 96  # Of the hidden states.
POSITIONS = 1024
STATES = 21  # Of an answer: four locations, sixteen codes, and what stands between objects.
BETWEEN = 20
UNUSED = 63  # Tokens that the model has and the tokenizer has not, as in the released ones.
LIKING = {";": 3.2, "<eos>": 3.1}  # How much the head likes a token in its place; 2.6 for all others.

LOCATIONS = [f"<loc{number:04}>" for number in range(1024)]
CODES = [f"<seg{number:03}>" for number in range(128)]


@dataclass(frozen=True)
class PaliGemmaFiles:
    """A folder and the file beside it."""

    folder: Path
    mask_decoder: Path

    @property
    def model_files(self) -> ModelFiles:
        """As settings would name them."""
        return ModelFiles(self.folder, companions={"mask_decoder": self.mask_decoder})


def gemma_tokenizer() -> GemmaTokenizer:
    """Gemma's kind with a letter for a token: it puts `<bos>` first by itself, and knows no PaliGemma tokens yet."""
    special = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>"]
    letters = [*string.printable.replace(" ", ""), "\u2581"]
    pieces = [*special, *(f"<0x{byte:02X}>" for byte in range(256)), *letters]
    vocab = {piece: index for index, piece in enumerate(dict.fromkeys(pieces))}
    tokenizer = GemmaTokenizer(vocab=vocab, merges=[])
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<bos> $A", special_tokens=[("<bos>", vocab["<bos>"])]
    )
    return tokenizer


def write_paligemma(folder: Path, *, seed: int = 7, version: int = 2) -> Path:
    """Writes a model whose answers are lists of objects, most of them whole, that depend on picture and phrase.

    Its second half is Gemma 2 or, for version 1, Gemma. The hidden state carries in its first places where in an object
    the last token stood, and the head prefers the tokens that come next; which of those it takes is left to the random
    rest.
    """
    torch.manual_seed(seed)
    images = SiglipImageProcessor(size={"height": SIDE, "width": SIDE}, image_mean=[0.5] * 3, image_std=[0.5] * 3)
    images.image_seq_length = (SIDE // PATCH) ** 2
    processor = PaliGemmaProcessor(images, gemma_tokenizer())
    model = PaliGemmaForConditionalGeneration(small_config(processor, Gemma2Config if version == 2 else GemmaConfig))
    with torch.no_grad():
        _make_eloquent(model, processor.tokenizer)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def small_config(processor: PaliGemmaProcessor, kind: type[PreTrainedConfig] = Gemma2Config) -> PaliGemmaConfig:
    """Two layers on either side; the head is not the embedding, so that it can be made to prefer."""
    vision = SiglipVisionConfig(
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        image_size=SIDE,
        patch_size=PATCH,
        vision_use_head=False,
    )
    text = kind(
        vocab_size=len(processor.tokenizer) + UNUSED,
        hidden_size=WIDTH,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=24,
        max_position_embeddings=POSITIONS,
        tie_word_embeddings=False,
        **({"query_pre_attn_scalar": 24, "sliding_window": POSITIONS} if kind is Gemma2Config else {}),
    )
    return PaliGemmaConfig(
        vision_config=vision.to_dict(),
        text_config=text.to_dict(),
        image_token_index=processor.image_token_id,
        projection_dim=WIDTH,
        hidden_size=WIDTH,
        tie_word_embeddings=False,
    )


def _make_eloquent(model: PaliGemmaForConditionalGeneration, tokenizer: GemmaTokenizer) -> None:
    for name, parameter in model.named_parameters():
        if parameter.ndim > 1:
            parameter.normal_(0, parameter.shape[-1] ** -0.5)
        elif name.endswith("bias"):
            parameter.normal_(0, 0.3)
        elif name.endswith("post_attention_layernorm.weight") and isinstance(model.config.text_config, Gemma2Config):
            parameter.fill_(2)  # Makes what the other tokens say heard; Gemma has it in another place.
    teach_grammar(model.model.language_model.embed_tokens.weight, model.lm_head.weight, tokenizer)


def teach_grammar(embedding: torch.Tensor, head: torch.Tensor, tokenizer: GemmaTokenizer) -> None:
    """Makes the head prefer, after each token, those that may follow it in an answer."""
    embedding[:, :STATES] = 0
    head[:, :STATES] = 0
    for piece in (*LOCATIONS, *CODES, ";", "<eos>", "\n"):
        token, state = tokenizer.convert_tokens_to_ids(piece), _state(piece)
        embedding[token, state] = 2
        if piece != "\n":
            head[token, (state - 1) % STATES] = LIKING.get(piece, 2.6)


def _state(piece: str) -> int:
    """Low locations come first, so that boxes have an area."""
    if match := re.fullmatch(r"<loc(\d+)>", piece):
        return 2 * (int(match[1]) >= 512) + int(match[1]) % 2
    if match := re.fullmatch(r"<seg(\d+)>", piece):
        return 4 + int(match[1]) % 16
    return BETWEEN


def write_mask_decoder(path: Path, seed: int = 6) -> Path:
    """Writes a file in the layout of vae-oid.npz, encoder and all, whose masks lie about zero."""
    rng = np.random.default_rng(seed)
    shapes = {"_vq_vae._embedding": (128, 512), "_vq_vae._ema_cluster_size": (128,), "encoder.0.weight": (16, 1, 4, 4)}
    layers = {"0": (128, 512, 1, 1), "12": (1, 16, 1, 1)}
    for block in ("2", "3"):
        sizes = {"0": 3, "2": 3, "4": 1}
        layers |= {f"{block}.net.{layer}": (128, 128, side, side) for layer, side in sizes.items()}
    layers |= {"4": (128, 128, 4, 4), "6": (128, 64, 4, 4), "8": (64, 32, 4, 4), "10": (32, 16, 4, 4)}
    for name, shape in layers.items():
        shapes |= {f"decoder.{name}.weight": shape}
        # Of a transposed convolution the second is the number of channels that come out.
        shapes |= {f"decoder.{name}.bias": (shape[1 if name in ("4", "6", "8", "10") else 0],)}
    arrays = {}
    for name, shape in shapes.items():
        fan_in = np.prod(shape[1:]) if len(shape) > 1 else 100
        if len(shape) == 4 and shape[-1] == 4:
            fan_in = shape[0] * 4  # Each pixel that comes out sees four of the sixteen weights.
        arrays[name] = rng.normal(0, 1.4 / np.sqrt(fan_in), shape).astype(np.float32)
    arrays["_vq_vae._embedding"] *= np.float32(20)
    np.savez(path, **arrays)
    return path


@pytest.fixture(scope="session")
def paligemma_files(tmp_path_factory: pytest.TempPathFactory) -> PaliGemmaFiles:
    """A small PaliGemma 2."""
    folder = tmp_path_factory.mktemp("paligemma2")
    return PaliGemmaFiles(write_paligemma(folder / "model"), write_mask_decoder(folder / "vae-oid.npz"))


@pytest.fixture(scope="session")
def paligemma(paligemma_files: PaliGemmaFiles) -> PaliGemma2:
    """It, loaded."""
    return load(paligemma_files.model_files, "cpu")


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Layers this small lose more by waiting for other threads than they gain."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
