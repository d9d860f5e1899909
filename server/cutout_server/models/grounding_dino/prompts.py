"""Phrases as the tokens that Grounding DINO reads, so that every token is known to be of one phrase or of none."""

import string
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from cutout_server.errors import FailedPreconditionError, InvalidRequestError

MARKS = ("[CLS]", "[SEP]", ".", "?")  # Phrases end at these: no token attends to those beyond.
NOBODY: tuple[int, ...] = ()

_SHOWN = 40  # Characters of a phrase in an error.


@dataclass(frozen=True)
class Prompt:
    """Phrases that the model reads together: "[CLS] cat . remote control . [SEP]".

    Attributes:
        ids: One for each token.
        owners: The indices of the phrases that each token is of, more than one where phrases read the same; NOBODY for
            marks.
    """

    ids: tuple[int, ...]
    owners: tuple[tuple[int, ...], ...]


class Prompter:
    """Makes prompts of phrases, as the processor and the official `predict` write them: lower case, each closed by ".".

    BERT's tokenizer never joins a letter to a full stop, so the tokens of the phrases, one after the other, are those
    of the whole text. Marks within a phrase ("St. Bernard") are left out, or the model would take it for two. Phrases
    that read the same are asked once, for all of them.

    Args:
        tokenizer: Of BERT's kind.
        limit: Tokens that the model reads at most.
        marks: The ids of MARKS that the model knows, when it cannot take others.

    Raises:
        FailedPreconditionError: The tokenizer lacks a mark, or has it at another id.
    """

    def __init__(self, tokenizer: Any, limit: int, marks: Sequence[int] | None = None) -> None:
        self._tokenizer = tokenizer
        self._limit = limit
        self.marks: list[int] = tokenizer.convert_tokens_to_ids(list(MARKS))
        self._unknown: int | None = tokenizer.unk_token_id
        if self._unknown in self.marks or None in self.marks or (marks is not None and self.marks != list(marks)):
            raise FailedPreconditionError(
                f"the tokenizer has {', '.join(MARKS)} at the ids {self.marks}; expected "
                f"{'those of bert-base-uncased' if marks is None else list(marks)}: take the tokenizer of the model"
            )

    def prompts(self, phrases: Sequence[str]) -> list[Prompt]:
        """As few prompts as hold all the phrases, in their order; none is cut.

        Raises:
            InvalidRequestError: A phrase holds no word, no word that the model knows, or more than it can read.
        """
        start, end, stop, _ = self.marks
        readers: dict[tuple[int, ...], list[int]] = {}
        for index, phrase in enumerate(phrases):
            readers.setdefault(self._read(index, phrase), []).append(index)
        ids, owners = [start], [NOBODY]
        prompts = []
        for tokens, indices in readers.items():
            if len(ids) > 1 and len(ids) + len(tokens) + 2 > self._limit:
                prompts.append(Prompt((*ids, end), (*owners, NOBODY)))
                ids, owners = [start], [NOBODY]
            ids += [*tokens, stop]
            owners += [*[tuple(indices)] * len(tokens), NOBODY]
        return [*prompts, Prompt((*ids, end), (*owners, NOBODY))] if readers else []

    def _read(self, index: int, phrase: str) -> tuple[int, ...]:
        text = phrase.lower().strip(string.whitespace + ".")
        tokens: list[int] = self._tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
        words = tuple(token for token in tokens if token not in self.marks)
        most = self._limit - 3  # "[CLS]", "." and "[SEP]"
        if not words:
            expected = "expected words, got none"
        elif all(token == self._unknown for token in words):
            expected = "expected words of which the model knows at least one, got none"
        elif len(words) > most:
            expected = f"expected at most {most} tokens, got {len(words)}"
        else:
            return words
        shown = phrase if len(phrase) <= _SHOWN else f"{phrase[:_SHOWN]}..."
        raise InvalidRequestError.of(f"phrases[{index}]", f"{expected} in {shown!r}")
