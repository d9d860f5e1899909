"""What texts are before they meet a picture, kept for those that were asked for last."""

from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from typing import Generic, TypeVar

V = TypeVar("V")

_TEXTS_PER_PASS = 64  # Bounds the memory.


class TextFeatures(Generic[V]):
    """The features of texts, which depend on nothing else. For the one thread that asks a model.

    Args:
        read: Makes the features of some different texts, 64 at most.
        most: Texts that are kept.
    """

    def __init__(self, read: Callable[[Sequence[str]], Iterable[V]], most: int) -> None:
        self._read, self._most = read, most
        self._kept: OrderedDict[str, V] = OrderedDict()

    def __call__(self, texts: Iterable[str]) -> dict[str, V]:
        """The features of each; those that are not at hand are read together."""
        wanted = list(dict.fromkeys(texts))
        found = {text: self._kept[text] for text in wanted if text in self._kept}
        new = [text for text in wanted if text not in found]
        for start in range(0, len(new), _TEXTS_PER_PASS):
            chunk = new[start : start + _TEXTS_PER_PASS]
            found.update(zip(chunk, self._read(chunk), strict=True))
        for text in wanted:
            self._kept[text] = found[text]
            self._kept.move_to_end(text)
        while len(self._kept) > self._most:
            self._kept.popitem(last=False)
        return found
