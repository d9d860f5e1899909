"""The embeddings cache of one device: bounded in bytes, and one encode however many ask at once."""

from collections import Counter, OrderedDict
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from cutout_server.models.embedding import Embedding
from cutout_server.models.operations import ENCODE, Operation
from cutout_server.pools.single_flight import SingleFlight
from cutout_server.types import RgbImage


@dataclass(frozen=True)
class EmbeddingKey:
    """What an embedding depends on; preprocessing is the model's own, so its name stands for both.

    Attributes:
        caller: Who asks: what is at hand, and what takes time, tells nobody which pictures others have sent.
        operation: What makes it.
    """

    caller: str
    model: str
    picture: str
    operation: Operation[RgbImage, Embedding] = ENCODE


# Of embeddings that had to leave, so many are remembered by their keys, to know when one is made a second time.
REMEMBERED = 10_000


class EmbeddingsCache:
    """Least recently used embeddings leave first. Belongs to the event loop; nothing here blocks.

    Attributes:
        remade: Embeddings that were made once more because they had to leave for others: a larger cache had kept them.
    """

    def __init__(self, capacity_bytes: int) -> None:
        self.capacity_bytes = capacity_bytes
        self.bytes = 0
        self.hits = 0
        self.misses = 0
        self.remade = 0
        self._left: OrderedDict[EmbeddingKey, None] = OrderedDict()
        self._entries: OrderedDict[EmbeddingKey, Embedding] = OrderedDict()
        self._flights: SingleFlight[EmbeddingKey, Embedding] = SingleFlight()
        self._expected: Counter[EmbeddingKey] = Counter()

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, key: EmbeddingKey) -> bool:
        """Whether it is here."""
        return key in self._entries

    def holds(self, key: EmbeddingKey) -> bool:
        """Whether it is here, or on its way."""
        return key in self._entries or key in self._flights or key in self._expected

    @contextmanager
    def expected(self, key: EmbeddingKey) -> Iterator[bool]:
        """Has it be on its way for as long as the block lasts, by whose end it may be kept; says whether it was.

        For what others make and tell of by `keep`; counts as `get` does.
        """
        held = self.holds(key)
        self._count(key, held=held)
        self._expected[key] += 1
        try:
            yield held
        finally:
            self._expected[key] -= 1
            if not self._expected[key]:
                del self._expected[key]

    async def get(self, key: EmbeddingKey, encode: Callable[[], Awaitable[Embedding]]) -> tuple[Embedding, bool]:
        """The embedding, and whether it was here or on its way already.

        `encode` runs once for all that wait for the same key. It is cancelled when the last of them has left, not when
        the first one does.
        """
        if key in self._entries:
            self.hits += 1
            self._entries.move_to_end(key)
            return self._entries[key], True

        async def encode_and_keep() -> Embedding:
            embedding = await encode()
            self.keep(key, embedding)
            return embedding

        joined = key in self._flights
        self._count(key, held=joined)
        return await self._flights.join(key, encode_and_keep), joined

    def drop(self, key: EmbeddingKey) -> None:
        """Forgets an embedding, if it is here."""
        if (embedding := self._entries.pop(key, None)) is not None:
            self.bytes -= embedding.nbytes

    def drop_model(self, model: str) -> None:
        """Forgets every embedding of a model."""
        for key in [key for key in self._entries if key.model == model]:
            self.drop(key)

    def keep(self, key: EmbeddingKey, embedding: Embedding) -> None:
        """Holds an embedding as the one that was used last."""
        if embedding.nbytes > self.capacity_bytes:
            return
        self.drop(key)
        self._entries[key] = embedding
        self.bytes += embedding.nbytes
        while self.bytes > self.capacity_bytes:
            left, oldest = self._entries.popitem(last=False)
            self.bytes -= oldest.nbytes
            self._left[left] = None
            if len(self._left) > REMEMBERED:
                self._left.popitem(last=False)

    def _count(self, key: EmbeddingKey, *, held: bool) -> None:
        self.hits += held
        self.misses += not held
        if not held and key in self._left:
            del self._left[key]
            self.remade += 1
