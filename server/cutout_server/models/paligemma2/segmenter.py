"""The model at work: each picture is encoded once, each phrase is a text to be continued."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from transformers import LogitsProcessor, LogitsProcessorList
from transformers.modeling_outputs import BaseModelOutputWithPooling

from cutout_server.errors import InvalidRequestError
from cutout_server.models.embedding import own_embedding
from cutout_server.models.paligemma2.answers import LOCATIONS, Outline, read_answer
from cutout_server.models.paligemma2.mask_decoder import MaskDecoder
from cutout_server.models.pretrained import nbytes
from cutout_server.models.queries import MaskQuery, TextFind, TextQuery
from cutout_server.types import Box, MaskPatch, RgbImage

_MAX_NEW_TOKENS = 512  # The longest texts of the training; about twenty objects.
_PHRASES_PER_PASS = 8
_TOKENS_PER_PASS = 8192  # With those of the picture; bounds the memory of keys and values.


@dataclass(frozen=True, eq=False)
class PaliGemmaEmbedding:
    """A picture as the language model reads it, on the model's device.

    Attributes:
        image_size: (height, width) in pixels.
        features: (T, D), in the model's precision.
    """

    image_size: tuple[int, int]
    features: Tensor = field(repr=False)

    @property
    def nbytes(self) -> int:
        """Memory that it holds, in bytes."""
        return self.features.untyped_storage().nbytes()


@dataclass(frozen=True)
class Window:
    """The part of the picture that a find's logits are about.

    Attributes:
        image_size: (height, width) of the picture, in pixels.
        rows: First and past the last; may be empty in small pictures, as may the columns.
        columns: Likewise.
    """

    image_size: tuple[int, int]
    rows: tuple[int, int]
    columns: tuple[int, int]

    @property
    def nbytes(self) -> int:
        """It holds no arrays."""
        return 0


@dataclass(frozen=True)
class _Answer:
    """What was written for one phrase, up to its end: tokens as text, and the probability of each."""

    pieces: list[str]
    probabilities: list[float]


class _Confidence(LogitsProcessor):
    """Takes down the probability of each token that greedy decoding takes, and changes nothing."""

    def __init__(self) -> None:
        self.steps: list[Tensor] = []

    def __call__(self, _: Tensor, scores: Tensor) -> Tensor:
        """(B, V) float32 in and out."""
        self.steps.append((scores.amax(-1) - scores.logsumexp(-1)).exp())
        return scores


class PaliGemma2:
    """A `TextSegmenter` that asks "segment <phrase>" and reads the locations and mask tokens of the answer.

    Decoding is greedy. The score of a find is the mean probability that the model gave to its four location tokens; it
    says how sure the place is, and is no calibrated confidence. Locations are 1024ths of the picture's sides, as in the
    models' documentation. A phrase may name several things ("cat ; dog"); all of them are finds of that phrase.

    Args:
        model: In eval mode, on its device. Nothing of it changes afterwards.
        processor: The folder's own.
        mask_decoder: On the CPU.
        max_new_tokens: An answer that is not at its end by then is cut, and the last object of it may be lost.
    """

    def __init__(
        self, model: Any, processor: Any, mask_decoder: MaskDecoder, max_new_tokens: int = _MAX_NEW_TOKENS
    ) -> None:
        self._model = model
        self._images = processor.image_processor
        self._tokenizer = tokenizer = processor.tokenizer
        self._mask_decoder = mask_decoder
        self._max_new_tokens = max_new_tokens
        self._prefix: str = processor.image_token * processor.image_seq_length + tokenizer.bos_token
        known = tokenizer.get_vocab()
        self._reserved = {id_ for piece, id_ in known.items() if piece.startswith(("<loc", "<seg"))} | {
            *tokenizer.all_special_ids,
            processor.image_token_id,
        }
        of_one: int = processor.image_seq_length + 1 + max_new_tokens
        self._longest: int = model.config.text_config.max_position_embeddings - of_one
        self._per_pass = max(1, min(_PHRASES_PER_PASS, _TOKENS_PER_PASS // of_one))

    @property
    def nbytes(self) -> int:
        """Memory of the weights, in bytes."""
        return nbytes(self._model) + nbytes(self._mask_decoder)

    @torch.inference_mode()
    def encode(self, images: Sequence[RgbImage]) -> list[PaliGemmaEmbedding]:
        """Encodes pictures of any sizes, (H, W, 3) uint8 RGB each, one at a time."""
        return [PaliGemmaEmbedding((image.shape[0], image.shape[1]), self._look(image)) for image in images]

    @torch.inference_mode()
    def segment_text(self, queries: Sequence[TextQuery]) -> list[list[TextFind]]:
        """Finds and outlines the phrases, in their order, and the finds of each in the order of the answer.

        Raises:
            InvalidRequestError: A phrase is longer than the model can read, has several lines, or holds a token that
                means something else to the model.
        """
        for query in queries:
            self._check(query.phrases)
        finds: list[list[TextFind]] = [[] for _ in queries]
        features = [own_embedding(query.embedding, PaliGemmaEmbedding).features for query in queries]
        asked = [(i, phrase) for i, query in enumerate(queries) for phrase in range(len(query.phrases))]
        for start in range(0, len(asked), self._per_pass):
            group = asked[start : start + self._per_pass]
            phrases = [queries[i].phrases[phrase] for i, phrase in group]
            answers = self._write(torch.stack([features[i] for i, _ in group]), phrases)
            for (i, phrase), answer in zip(group, answers, strict=True):
                finds[i] += self._finds(queries[i], phrase, answer)
        return finds

    def masks(self, queries: Sequence[MaskQuery]) -> list[MaskPatch]:
        """Stretches the logits over their boxes bilinearly, as big_vision's evaluator does."""
        return [_paste(query) for query in queries]

    def _check(self, phrases: Sequence[str]) -> None:
        for index, phrase in enumerate(phrases):
            ids: list[int] = self._tokenizer(_prompt(phrase), add_special_tokens=False)["input_ids"]
            if len(ids) > self._longest:
                fault = f'at most {self._longest} tokens with "segment" before them, got {len(ids)}'
            elif phrase.splitlines() != [phrase]:
                fault = "one line of words"
            elif reserved := self._reserved.intersection(ids):
                token = self._tokenizer.convert_ids_to_tokens(min(reserved))
                fault = f"plain words, got {token!r}, which means something else to the model"
            else:
                continue
            raise InvalidRequestError.of(f"phrases[{index}]", f"expected {fault}")

    def _look(self, image: RgbImage) -> Tensor:
        """(T, D) features of a picture, on the model's device."""
        # A writeable copy, as torch takes no other; said to be channels last, as 3 pixels of height look like channels.
        pixels = self._images([np.array(image, order="C")], input_data_format="channels_last", return_tensors="pt")
        values = pixels["pixel_values"].to(self._model.device, self._model.dtype)
        features: Tensor = self._model.model.get_image_features(values).pooler_output
        return features[0]

    def _write(self, features: Tensor, phrases: Sequence[str]) -> list[_Answer]:
        """What the model writes about each phrase; (B, T, D) features of any precision."""
        tokenizer, confidence = self._tokenizer, _Confidence()
        prompts = tokenizer(
            [self._prefix + _prompt(phrase) for phrase in phrases],
            padding=True,
            padding_side="left",  # The answer follows the prompt's last token.
            return_token_type_ids=True,
            return_tensors="pt",
        ).to(self._model.device)
        tokens = self._model.generate(
            **prompts,
            mm_encoder_outputs={"image": BaseModelOutputWithPooling(pooler_output=features.to(self._model.dtype))},
            logits_processor=LogitsProcessorList([confidence]),
            max_new_tokens=self._max_new_tokens,
            do_sample=False,
            num_beams=1,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
        written = tokens[:, prompts["input_ids"].shape[1] :].tolist()
        probabilities = torch.stack(confidence.steps, dim=1).tolist()
        return [self._until_end(*each) for each in zip(written, probabilities, strict=True)]

    def _until_end(self, tokens: list[int], probabilities: list[float]) -> _Answer:
        end = self._tokenizer.eos_token_id
        length = tokens.index(end) if end in tokens else len(tokens)
        # The vocabulary is padded: the last of its tokens have no piece.
        pieces = [piece or "" for piece in self._tokenizer.convert_ids_to_tokens(tokens[:length])]
        return _Answer(pieces, probabilities[:length])

    def _finds(self, query: TextQuery, phrase_index: int, answer: _Answer) -> list[TextFind]:
        outlines = read_answer(answer.pieces)
        decoded = self._mask_decoder.masks([outline.codes for outline in outlines])
        size = query.embedding.image_size
        finds = []
        for outline, logits in zip(outlines, decoded, strict=True):
            score = sum(answer.probabilities[outline.start : outline.start + 4]) / 4
            if score >= query.box_threshold:
                box, window = place(outline, size)
                finds.append(TextFind(box, score, phrase_index, window, logits))
        return finds


def _prompt(phrase: str) -> str:
    return f"segment {phrase}\n"


def place(outline: Outline, image_size: tuple[int, int]) -> tuple[Box, Window]:
    """Where an object is: to a fraction of a pixel, and in whole pixels as `extract_objs` rounds them."""
    height, width = image_size
    y_min, x_min, y_max, x_max = outline.locations
    box = Box(
        x_min * width / LOCATIONS, y_min * height / LOCATIONS, x_max * width / LOCATIONS, y_max * height / LOCATIONS
    )
    rows, columns = (round(box.y_min), round(box.y_max)), (round(box.x_min), round(box.x_max))
    return box, Window(image_size, rows, columns)


def _paste(query: MaskQuery) -> MaskPatch:
    window = query.embedding
    assert isinstance(window, Window)  # noqa: S101 - it came with the find
    (top, bottom), (left, right) = window.rows, window.columns
    if top >= bottom or left >= right:
        return MaskPatch(*window.image_size, 0, 0, np.zeros((0, 0), np.bool_))
    stretched = Image.fromarray(query.logits).resize((right - left, bottom - top), Image.Resampling.BILINEAR)
    return MaskPatch(*window.image_size, top, left, np.asarray(stretched) > query.threshold)
