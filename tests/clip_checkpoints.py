"""Small CLIP, SigLIP, SigLIP 2 and OWLv2 folders as `save_pretrained` writes them, with seeded weights."""

import io
import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import sentencepiece
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers
from transformers import (
    CLIPConfig,
    CLIPImageProcessor,
    CLIPModel,
    CLIPProcessor,
    CLIPTokenizer,
    GemmaTokenizer,
    Owlv2Config,
    Owlv2ForObjectDetection,
    Owlv2ImageProcessor,
    Owlv2Processor,
    PreTrainedTokenizerBase,
    SiglipConfig,
    SiglipImageProcessor,
    SiglipModel,
    SiglipProcessor,
    SiglipTokenizer,
)

SENTENCES = [
    "a photo of a cat on a red sofa",
    "a photo of the astronaut in an orange suit",
    "a cup of coffee on a wooden table",
    "a rocket on the launch pad at night",
    "two dogs play in the snow, one of them jumps",
    "an old man reads a newspaper near the window",
    "the quick brown fox jumps over the lazy dog",
]
NARROW = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
SIDE = 64  # Of what the small classifiers look at.
OWL_SIDE = 128


def clip_tokenizer(more: Sequence[str] = (), **options: object) -> CLIPTokenizer:
    """CLIP's own kind: lower case, bytes, an end-of-word suffix, and the two marks last, which the models rely on."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    learnt = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    bytewise = pre_tokenizers.ByteLevel(add_prefix_space=False)
    learnt.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Whitespace(), bytewise])
    trainer = trainers.BpeTrainer(vocab_size=600, end_of_word_suffix="</w>", show_progress=False)
    learnt.train_from_iterator(SENTENCES * 3, trainer)
    merges = [tuple(merge) for merge in json.loads(learnt.to_str())["model"]["merges"]]
    pieces = [*alphabet, *(f"{letter}</w>" for letter in alphabet), *("".join(merge) for merge in merges)]
    pieces = [*dict.fromkeys(pieces), *more, "<|startoftext|>", "<|endoftext|>"]
    return CLIPTokenizer(vocab={piece: index for index, piece in enumerate(pieces)}, merges=merges, **options)


def owlv2_tokenizer() -> CLIPTokenizer:
    """CLIP's with shorter texts and other padding."""
    return clip_tokenizer(model_max_length=16, pad_token="!")  # noqa: S106 - it is no secret


def siglip_tokenizer(folder: Path) -> SiglipTokenizer:
    """SigLIP's own kind: a sentencepiece model that ends and pads texts with `</s>`."""
    written = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(SENTENCES * 3),
        model_writer=written,
        vocab_size=120,
        hard_vocab_limit=False,
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        minloglevel=2,
    )
    path = folder / "spiece.model"
    path.write_bytes(written.getvalue())
    return SiglipTokenizer(str(path), model_input_names=["input_ids"], model_max_length=64)


def gemma_tokenizer() -> GemmaTokenizer:
    """SigLIP 2's own kind: Gemma's, which keeps capitals, ends texts with `<eos>`, and knows no longest text."""
    learnt = Tokenizer(models.BPE())
    learnt.pre_tokenizer = pre_tokenizers.Split("\u2581", "merged_with_next")
    sentences = [sentence.replace(" ", "\u2581") for sentence in SENTENCES * 3]
    learnt.train_from_iterator(sentences, trainers.BpeTrainer(vocab_size=200, show_progress=False))
    merges = [tuple(merge) for merge in json.loads(learnt.to_str())["model"]["merges"]]
    special = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>"]
    pieces = [*special, *(f"<0x{byte:02X}>" for byte in range(256)), *learnt.get_vocab()]
    vocab = {piece: index for index, piece in enumerate(dict.fromkeys(pieces))}
    tokenizer = GemmaTokenizer(vocab=vocab, merges=merges, model_input_names=["input_ids"], padding_side="right")
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="$A <eos>", special_tokens=[("<eos>", vocab["<eos>"])]
    )
    return tokenizer


def _grow(model: torch.nn.Module, factor: float) -> None:
    """Makes layers this narrow tell pictures and texts apart, as fresh ones do not."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim > 1:
                parameter.mul_(factor)
            elif name.endswith(".bias"):
                parameter.normal_(0, 0.1)


def tame_heads(model: Owlv2ForObjectDetection) -> None:
    """Makes boxes and scores of fresh layers vary from patch to patch and from phrase to phrase within bounds."""
    with torch.no_grad():
        for head, factor in ((model.box_head, 1.0), (model.class_head, 0.3)):
            for layer in (module for module in head.modules() if isinstance(module, torch.nn.Linear)):
                layer.weight.normal_(0, (factor if layer.out_features < 4 else 1) / math.sqrt(layer.in_features))
                layer.bias.normal_(0, 0.1)
        model.class_head.logit_scale.bias.fill_(4)
        model.class_head.logit_shift.bias.fill_(-0.2)


def _text_config(tokenizer: PreTrainedTokenizerBase, length: int) -> dict[str, object]:
    marks = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("bos", "eos", "pad")}
    return {**NARROW, "vocab_size": len(tokenizer), "max_position_embeddings": length, **marks}


def write_clip(folder: Path, seed: int = 1, **text: int) -> Path:
    """Writes a CLIP folder; `text` changes the form of its text tower."""
    torch.manual_seed(seed)
    tokenizer = clip_tokenizer(model_max_length=77)
    config = CLIPConfig(
        text_config=_text_config(tokenizer, 77) | text,
        vision_config={**NARROW, "image_size": SIDE, "patch_size": 16},
        projection_dim=24,
        logit_scale_init_value=math.log(20),
    )
    model = CLIPModel(config)
    _grow(model, 6)
    model.save_pretrained(folder)
    images = CLIPImageProcessor(size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE})
    CLIPProcessor(images, tokenizer).save_pretrained(folder)
    return folder


def write_siglip(folder: Path, *, second: bool = False, seed: int = 2) -> Path:
    """Writes a SigLIP folder, or one of SigLIP 2, which differs in the tokenizer."""
    torch.manual_seed(seed)
    folder.mkdir(exist_ok=True)
    tokenizer = gemma_tokenizer() if second else siglip_tokenizer(folder)
    config = SiglipConfig(
        text_config=_text_config(tokenizer, 64) | {"projection_size": 32},
        vision_config={**NARROW, "image_size": SIDE, "patch_size": 16},
    )
    model = SiglipModel(config)
    _grow(model, 2)
    with torch.no_grad():
        model.logit_scale.fill_(math.log(20))
        model.logit_bias.fill_(-10)
    model.save_pretrained(folder)
    images = SiglipImageProcessor(size={"height": SIDE, "width": SIDE})
    SiglipProcessor(images, tokenizer).save_pretrained(folder)
    return folder


def write_owlv2(folder: Path, seed: int = 3) -> Path:
    """Writes an OWLv2 folder whose scores lie on both sides of any reasonable threshold."""
    torch.manual_seed(seed)
    tokenizer = owlv2_tokenizer()
    config = Owlv2Config(
        text_config=_text_config(tokenizer, 16),
        vision_config={**NARROW, "image_size": OWL_SIDE, "patch_size": 16},
        projection_dim=32,
    )
    model = Owlv2ForObjectDetection(config)
    _grow(model, 3)
    tame_heads(model)
    model.save_pretrained(folder)
    images = Owlv2ImageProcessor(size={"height": OWL_SIDE, "width": OWL_SIDE})
    Owlv2Processor(images, tokenizer).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """Layers this narrow gain nothing from more."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def clip_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small CLIP."""
    return write_clip(tmp_path_factory.mktemp("clip"))


@pytest.fixture(scope="session")
def siglip_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small SigLIP."""
    return write_siglip(tmp_path_factory.mktemp("siglip"))


@pytest.fixture(scope="session")
def siglip2_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small SigLIP 2."""
    return write_siglip(tmp_path_factory.mktemp("siglip2"), second=True)


@pytest.fixture(scope="session")
def owlv2_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small OWLv2."""
    return write_owlv2(tmp_path_factory.mktemp("owlv2"))
