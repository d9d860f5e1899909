"""What every device offers to requests, wherever it is: a bounded number of slots, and models to ask."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

from cutout_server.catalogue import ModelSpec
from cutout_server.models.operations import DECODE, MASKS, Answer, Operation, Query
from cutout_server.models.queries import CutMask, CutQuery, DecodeQuery, MaskQuery
from cutout_server.pools.admission import Admission, Who
from cutout_server.pools.embeddings import EmbeddingKey, EmbeddingsCache
from cutout_server.pools.fair_queue import FairQueue, Turn
from cutout_server.pools.models import LoadedModels


class Pool(ABC):
    """One worker for one device. Belongs to the event loop.

    Attributes:
        device: Its name.
        models: What it holds.
        embeddings: Those that are at hand there.
        jobs: Questions answered since the start.
        batches: Passes that they took.
        on_unload: Called on the event loop with the name of each model that has left.
    """

    def __init__(self, device: str, models: LoadedModels, *, capacity: int, embeddings_cache_bytes: int) -> None:
        self.device = device
        self.models = models
        self.admission = Admission(device, capacity)
        self.fair_queue = FairQueue()
        self.embeddings = EmbeddingsCache(embeddings_cache_bytes)
        self.on_unload: list[Callable[[str], None]] = [self.embeddings.drop_model]
        self.jobs = 0
        self.batches = 0

    @property
    @abstractmethod
    def queued_jobs(self) -> int:
        """Jobs that wait."""

    @abstractmethod
    def memory(self) -> tuple[int, int]:
        """(used, total) bytes of the device."""

    @property
    def requests(self) -> int:
        """Requests admitted and not finished."""
        return self.admission.requests

    @property
    def capacity(self) -> int:
        """The greatest number of requests admitted at once."""
        return self.admission.capacity

    def admit(self, caller: Who, quota: int = 0, *, deadline_s: float = float("inf")) -> Turn:
        """Takes a slot for a request; `leave` gives it back.

        Args:
            caller: See Admission.admit.
            quota: Likewise.
            deadline_s: When the request is to be done.

        Raises:
            OverloadedError: None is free.
            QuotaError: The party has as many as it may.
        """
        self.admission.admit(caller, quota)
        return self.fair_queue.take(caller.party, deadline_s)

    def leave(self, turn: Turn, worked_s: float) -> None:
        """Gives a slot back after `worked_s` seconds of holding it."""
        self.fair_queue.give_back(turn)
        self.admission.leave(worked_s, turn.caller)

    @abstractmethod
    async def ask(
        self,
        turn: Turn,
        operation: Operation[Query, Answer],
        spec: ModelSpec,
        questions: Sequence[Query],
        *,
        deadline_s: float,
    ) -> list[Answer]:
        """Asks a model some questions and counts the waiting and the work to the current call's stages.

        Raises:
            DeadlineError: Their turn came after the deadline.
        """

    async def cut(
        self, turn: Turn, spec: ModelSpec, queries: Sequence[CutQuery], *, deadline_s: float
    ) -> list[list[CutMask]]:
        """Decodes prompts and makes the masks of each, the best one first; all of them are in memory at once.

        Raises:
            DeadlineError: See `ask`.
        """
        prompts = [DecodeQuery(query.embedding, query.prompt, query.multimask) for query in queries]
        decoded = await self.ask(turn, DECODE, spec, prompts, deadline_s=deadline_s)
        best = [candidates.best(query.most) for query, candidates in zip(queries, decoded, strict=True)]
        wanted = [
            MaskQuery(query.embedding, logits, query.threshold)
            for query, found in zip(queries, best, strict=True)
            for logits, _ in found
        ]
        made = iter(await self.ask(turn, MASKS, spec, wanted, deadline_s=deadline_s))
        return [
            [CutMask(next(made), iou, logits if query.with_logits else None) for logits, iou in found]
            for query, found in zip(queries, best, strict=True)
        ]

    def forget(self, key: EmbeddingKey) -> None:
        """Nobody asks about an embedding any more: it leaves for others."""
        self.embeddings.drop(key)

    @abstractmethod
    async def load(self, spec: ModelSpec) -> None:
        """Loads a model ahead of the first request."""

    @abstractmethod
    async def unload(self, name: str) -> None:
        """Unloads a model between two batches."""

    @abstractmethod
    async def make_room(self) -> None:
        """Has models leave that no longer fit beside what sessions remember."""

    @abstractmethod
    async def close(self) -> None:
        """Stops the worker; what still waits is cancelled. A pass under way ends by itself, and nobody waits for it."""
