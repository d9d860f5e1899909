"""What a language model answered, read as noun phrases and nothing else."""

import json
import re
from collections.abc import Iterator
from itertools import chain, islice

from cutout_server.types import RewrittenPhrase
from cutout_server.wording import MAX_PHRASE_LENGTH, split

# Brackets in prose that begin no JSON: after so many the rest is not looked at, so that no answer costs much time.
MAX_FALSE_STARTS = 16

_INDEX_KEYS = ("prompt_index", "index", "id")
_PHRASE_KEYS = ("phrase", "phrases", "noun_phrase", "noun_phrases")
_OPENING = re.compile(r"[\[{]")
_BULLET = re.compile(r"^\s*(?:[-*\u2022]|\d+[.)])\s+(.+)$", re.MULTILINE)
_AROUND = " .,;:!?\"'`*_-\u2018\u2019\u201c\u201d"


def read_phrases(answer: str, asked: tuple[str, ...], limit: int) -> tuple[RewrittenPhrase, ...]:
    """Ties each noun phrase of an answer to the caller's phrase that it stands for.

    Understands the JSON that was asked for, and what models write instead: JSON in code fences or amid prose, one
    object a line, a map from the caller's phrases, plain lists. A caller's phrase for which nothing came stays.

    Args:
        answer: The model's text.
        asked: The caller's phrases.
        limit: At most so many phrases; each of the caller's gets an equal share.

    Returns:
        In the order of the caller's phrases, no two of one alike but for case; empty when the answer holds none at all.
    """
    groups: list[list[str]] = [[] for _ in asked]
    try:
        for index, text in _walk(_values(answer), asked, None):
            groups[index].extend(_clean(text))
    except RecursionError:  # Nested deeper than any answer has a reason to be.
        return ()
    if not any(groups):
        return ()
    share = max(1, limit // len(asked))
    phrases = []
    for index, group in enumerate(groups):
        unique: dict[str, str] = {}
        for phrase in group or [asked[index]]:
            unique.setdefault(phrase.casefold(), phrase)
        phrases += [RewrittenPhrase(phrase, index) for phrase in islice(unique.values(), share)]
    return tuple(phrases)


def _values(answer: str) -> list[object]:
    """Every JSON value in a text; without any, the items of a bulleted or numbered list."""
    text = answer.rpartition("</think>")[2]
    decoder = json.JSONDecoder()
    values: list[object] = []
    position = false_starts = 0
    while (start := _OPENING.search(text, position)) and false_starts < MAX_FALSE_STARTS:
        try:
            value, position = decoder.raw_decode(text, start.start())
            values.append(value)
        except (ValueError, RecursionError):
            position = start.end()
            false_starts += 1
    if values:
        return values[0] if len(values) == 1 and isinstance(values[0], list) else values
    return _BULLET.findall(text)


def _walk(value: object, asked: tuple[str, ...], index: int | None) -> Iterator[tuple[int, str]]:
    """The texts in a JSON value, each with the index that it is tied to; texts that are tied to none are left out.

    Args:
        value: Strings, lists and objects in any nesting.
        asked: The caller's phrases.
        index: What `value` is tied to by what lies around it.
    """
    if len(asked) == 1:
        index = 0
    match value:
        case str() if index is not None:
            yield index, value
        case list():
            one_each = index is None and len(value) == len(asked) and all(isinstance(v, str | list) for v in value)
            for place, item in enumerate(value):
                yield from _walk(item, asked, place if one_each else index)
        case dict():
            index = next((tied for key in _INDEX_KEYS if (tied := _index(value.get(key), asked)) is not None), index)
            named = [value[key] for key in _PHRASE_KEYS if key in value]
            for item in named:
                yield from _walk(item, asked, index)
            for key, item in value.items() if not named else ():
                tied = _index(key, asked)
                if tied is not None or isinstance(item, list | dict):
                    yield from _walk(item, asked, index if tied is None else tied)


def _index(value: object, asked: tuple[str, ...]) -> int | None:
    """Which of the caller's phrases a number, a numeral or the phrase itself means."""
    if isinstance(value, str):
        for index, phrase in enumerate(asked):
            if phrase.casefold() == value.strip().casefold():
                return index
        if len(value) > 9 or not value.isdecimal():
            return None
        value = int(value)
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < len(asked):
        return value
    return None


def _clean(text: str) -> Iterator[str]:
    """The phrases of a text, as a caller could have written them: "shoes. socks." is two."""
    for part in chain.from_iterable(map(split, text.split("\n"))):
        phrase = " ".join(part.split()).strip(_AROUND)
        if phrase.isprintable() and any(map(str.isalnum, phrase)) and len(phrase) <= MAX_PHRASE_LENGTH:
            yield phrase
