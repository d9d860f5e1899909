"""Small Grounding DINO checkpoints: folders as `save_pretrained` writes them, and files as the package does."""

import math
import re
import string
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from cutout_server.models.grounding_dino_official.architecture import read_config
from cutout_server.models.grounding_dino_official.package import GroundingDINO_SwinT_OGC, build_model
from cutout_server.types import ModelFiles
from torch import nn
from transformers import (
    BertConfig,
    BertTokenizer,
    GroundingDinoConfig,
    GroundingDinoForObjectDetection,
    GroundingDinoImageProcessor,
    GroundingDinoProcessor,
    MMGroundingDinoConfig,
    MMGroundingDinoForObjectDetection,
    SwinConfig,
)

# Marks have the ids that they have in bert-base-uncased, on which transformers' models rely.
_PLACES = {"[PAD]": 0, "[UNK]": 100, "[CLS]": 101, "[SEP]": 102, "[MASK]": 103, ".": 1012, "?": 1029}
_WORDS = (
    "a the cat dog red sofa remote control astro ##naut fl ##uff ##hy coffee cup of rocket launch pad on flag "
    "helmet orange suit table spoon sau ##cer ear eye moon sky"
)
SIZE = {"shortest_edge": 96, "longest_edge": 160}
QUERIES = 30


def tokenizer() -> BertTokenizer:
    """BERT's own kind, of so few words that most are split into pieces."""
    letters = [*string.ascii_lowercase, *string.digits, *"-,'!()", "\u732b"]
    pieces = iter(dict.fromkeys([*letters, *(f"##{letter}" for letter in letters), *_WORDS.split()]))
    names = {place: name for name, place in _PLACES.items()}
    size = max(_PLACES.values()) + 1
    vocab = {names.get(place) or next(pieces, f"[unused{place}]"): place for place in range(size)}
    return BertTokenizer(vocab=vocab)


def bert_config() -> BertConfig:
    """A small BERT for the small tokenizer."""
    return BertConfig(
        vocab_size=len(tokenizer()),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        max_position_embeddings=512,
    )


def config(kind: type[GroundingDinoConfig] | type[MMGroundingDinoConfig] = GroundingDinoConfig, **options: object):
    """A small Grounding DINO with every part of a large one."""
    backbone = SwinConfig(
        image_size=96,
        embed_dim=16,
        depths=[2, 2, 2, 2],
        num_heads=[1, 2, 2, 4],
        window_size=4,
        out_features=["stage2", "stage3", "stage4"],
    )
    small = {"d_model": 32, "encoder_layers": 2, "decoder_layers": 2, "encoder_ffn_dim": 64, "decoder_ffn_dim": 64}
    heads = {"encoder_attention_heads": 8, "decoder_attention_heads": 8}
    return kind(
        **{
            "backbone_config": backbone,
            "text_config": bert_config(),
            "num_queries": QUERIES,
            **small,
            **heads,
            **options,
        }
    )


def liven(model: nn.Module, seed: int = 0, sharpness: float = 0.3) -> None:
    """Makes fresh layers tell places and words apart: boxes vary, and scores are neither all high nor all low.

    Args:
        model: In either runtime.
        seed: Of the weights.
        sharpness: What the scores are scaled by.
    """
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith(("decoder.norm.weight", "decoder.layer_norm.weight")):
                parameter.fill_(sharpness)
            elif name.endswith(("tgt_embed.weight", "query_position_embeddings.weight")):
                parameter.copy_(torch.randn(parameter.shape, generator=generator))
            elif parameter.ndim > 1:
                spread = (2 if re.search(r"bbox_embed.*layers.2.weight", name) else 1) / math.sqrt(parameter[0].numel())
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * spread)
            elif name.endswith("bias"):
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.1)


def middle(scores: torch.Tensor) -> float:
    """A threshold that about half of the scores exceed, as far from any of them as can be."""
    ordered = scores.sort().values[len(scores) // 4 : 3 * len(scores) // 4]
    gap = int(ordered.diff().argmax())
    return float(ordered[gap : gap + 2].mean())


def write_folder(folder: Path, *, mm: bool = False, seed: int = 4) -> Path:
    """Writes a folder of Grounding DINO, or of MM Grounding DINO."""
    kinds = (
        (MMGroundingDinoConfig, MMGroundingDinoForObjectDetection)
        if mm
        else (GroundingDinoConfig, GroundingDinoForObjectDetection)
    )
    model = kinds[1](config(kinds[0]))
    liven(model, seed, 1.2 if mm else 0.3)  # MM Grounding DINO divides by the root of the width.
    model.save_pretrained(folder)
    GroundingDinoProcessor(GroundingDinoImageProcessor(size=SIZE), tokenizer()).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """Layers this narrow gain nothing from more."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def grounding_dino_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small Grounding DINO."""
    return write_folder(tmp_path_factory.mktemp("grounding-dino"))


@pytest.fixture(scope="session")
def mm_grounding_dino_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small MM Grounding DINO."""
    return write_folder(tmp_path_factory.mktemp("mm-grounding-dino"), mm=True)


@dataclass(frozen=True)
class OfficialFiles:
    """What a model in the official format is made of.

    Attributes:
        checkpoint: The .pth file.
        config: In the layout of the package's own, with fewer layers; the backbone is Swin-T's.
        text_encoder: The folder of BERT's tokenizer and config.
    """

    checkpoint: Path
    config: Path
    text_encoder: Path

    def model_files(self, *, config: bool = True) -> ModelFiles:
        companions = {"text_encoder": self.text_encoder}
        return ModelFiles(self.checkpoint, str(self.config) if config else None, companions)


def write_official(folder: Path, seed: int = 10, **changes: object) -> OfficialFiles:
    """Writes a file as the official ones are, with what only training needs, and what describes it."""
    folder.mkdir(exist_ok=True)
    text_encoder = folder / "bert"
    tokenizer().save_pretrained(text_encoder)
    bert_config().save_pretrained(text_encoder)
    config = folder / "small_cfg.py"
    small = {"enc_layers": 2, "dec_layers": 2, "dim_feedforward": 64, "num_queries": QUERIES}
    values = {name: value for name, value in vars(GroundingDINO_SwinT_OGC).items() if not name.startswith("__")}
    config.write_text("".join(f"{name} = {value!r}\n" for name, value in {**values, **small, **changes}.items()))
    model = build_model(read_config(config), bert_config(), [])
    liven(model, seed)
    weights = {f"module.{name}": tensor for name, tensor in model.state_dict().items()}
    weights["module.label_enc.weight"] = torch.zeros(8, 256)
    weights["module.bert.embeddings.position_ids"] = torch.arange(512)[None]
    checkpoint = folder / "small.pth"
    torch.save({"model": weights}, checkpoint)
    return OfficialFiles(checkpoint, config, text_encoder)


@pytest.fixture(scope="session")
def official_files(tmp_path_factory: pytest.TempPathFactory) -> OfficialFiles:
    """A small Grounding DINO in the official format."""
    return write_official(tmp_path_factory.mktemp("official"))
