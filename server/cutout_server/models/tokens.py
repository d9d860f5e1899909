"""Texts as tokens, for the text towers of CLIP's kind. Nothing is ever cut off."""

from collections.abc import Callable, Sequence
from typing import Any

from cutout_server.errors import FailedPreconditionError, InvalidRequestError

_SHOWN = 40  # Characters of a text in an error.


def check_texts(tokenizer: Any, texts: Sequence[str], limit: int, field: Callable[[int], str]) -> None:
    """Makes sure that the model can read each text to its end.

    Args:
        tokenizer: As transformers loads it.
        texts: As they go to the model.
        limit: Tokens that it reads at most, those that mark the start and the end included.
        field: What the caller calls the text of an index.

    Raises:
        InvalidRequestError: A text is too long, or holds the mark of its own end, behind which nothing is read.
    """
    if not texts:
        return
    tokens: list[list[int]] = tokenizer(list(texts), verbose=False)["input_ids"]
    for index, (text, ids) in enumerate(zip(texts, tokens, strict=True)):
        if len(ids) > limit:
            expected = f"expected at most {limit} tokens, start and end included, got {len(ids)}"
        elif tokenizer.eos_token_id in ids[:-1]:
            expected = f"expected plain words, got {tokenizer.eos_token!r}, the model's mark of the end,"
        else:
            continue
        shown = text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."
        raise InvalidRequestError.of(field(index), f"{expected} in {shown!r}")


def alike(tokenizer: Any, texts: Sequence[str]) -> list[tuple[int, ...]]:
    """For each text the indices of all that the model reads as the same, its own among them."""
    readings = [tuple(ids) for ids in tokenizer(list(texts), verbose=False)["input_ids"]] if texts else []
    indices: dict[tuple[int, ...], list[int]] = {}
    for index, ids in enumerate(readings):
        indices.setdefault(ids, []).append(index)
    return [tuple(indices[ids]) for ids in readings]


def check_tokenizer(tokenizer: Any, vocab_size: int) -> None:
    """Makes sure that the model knows every token.

    Raises:
        FailedPreconditionError: It is of a model with fewer.
    """
    if len(tokenizer) > vocab_size:
        raise FailedPreconditionError(
            f"the tokenizer has {len(tokenizer)} tokens and the model knows {vocab_size}: "
            "they are of different models, download the whole folder"
        )
