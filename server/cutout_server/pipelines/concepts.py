"""What pictures show: each of the caller's concepts with a score."""

import math
from collections import OrderedDict
from collections.abc import Sequence

import numpy as np

from cutout_server.catalogue import ModelSpec
from cutout_server.models.operations import EMBED_PICTURES, EMBED_TEXTS
from cutout_server.pools.placement import Slot
from cutout_server.pools.single_flight import SingleFlight
from cutout_server.types import AnalyzeRequest, ConceptScore, Features, RgbImage
from cutout_server.wording import reading

# Texts whose features are kept: a few kilobytes each.
CACHED_TEXTS = 4096


class Describer:
    """Scores pictures by concepts whose features are at hand.

    Args:
        slot: Where the classifier runs.
        classifier: What compares.
        concepts: As the caller wrote them.
        first: For each the index of the first that it reads like, which stands for both; mostly its own.
        texts: The features of each.
    """

    def __init__(
        self,
        slot: Slot,
        classifier: ModelSpec,
        concepts: Sequence[str],
        first: Sequence[int],
        texts: Sequence[Features],
    ) -> None:
        self._slot = slot
        self._classifier = classifier
        self._concepts = concepts
        self._first = first
        distinct, self._places = np.unique(first, return_inverse=True)
        self._texts = np.stack([texts[index] for index in distinct])

    async def describe(self, pictures: Sequence[RgbImage]) -> list[tuple[ConceptScore, ...]]:
        """The concepts of each picture, the best first: softmax of the logits over those that do not read alike."""
        features = await self._slot.ask_all(EMBED_PICTURES, self._classifier, pictures)
        return [self._scores(of_image) for of_image in features]

    def _scores(self, features: Features) -> tuple[ConceptScore, ...]:
        logits = (self._texts @ features).astype(np.float64)
        scores = np.exp(logits - logits.max())
        scores = (scores / scores.sum())[self._places]
        order = np.argsort(-scores, kind="stable").tolist()
        return tuple(self._score(index, float(scores[index])) for index in order)

    def _score(self, index: int, score: float) -> ConceptScore:
        first = self._first[index]
        return ConceptScore(self._concepts[index], score, index, None if first == index else first)


def _first_alike(concepts: Sequence[str]) -> list[int]:
    first: dict[str, int] = {}
    return [first.setdefault(reading(concept), index) for index, concept in enumerate(concepts)]


class Concepts:
    """Makes describers, and remembers the features of texts from one request to the next."""

    def __init__(self) -> None:
        self._texts: OrderedDict[tuple[str, str], Features] = OrderedDict()
        self._flights: SingleFlight[tuple[str, tuple[str, ...]], Sequence[Features]] = SingleFlight()

    async def describer(self, slot: Slot, classifier: ModelSpec, request: AnalyzeRequest) -> Describer:
        """A describer for the request's concepts.

        Raises:
            InvalidRequestError: A concept is longer than the model can read.
        """
        first = _first_alike(request.concepts)
        texts = [request.template.replace("{}", request.concepts[index]) for index in first]
        known = {text: self._texts[classifier.name, text] for text in texts if (classifier.name, text) in self._texts}
        if new := tuple(text for text in dict.fromkeys(texts) if text not in known):

            async def embed() -> Sequence[Features]:
                # Others may wait for it too, with deadlines of their own: cancelling is what ends it.
                return await slot.ask_all(EMBED_TEXTS, classifier, new, deadline_s=math.inf)

            known.update(zip(new, await self._flights.join((classifier.name, new), embed), strict=True))
        for text, features in known.items():
            self._texts[classifier.name, text] = features
            self._texts.move_to_end((classifier.name, text))
        while len(self._texts) > CACHED_TEXTS:
            self._texts.popitem(last=False)
        return Describer(slot, classifier, request.concepts, first, [known[text] for text in texts])

    def forget(self, model: str) -> None:
        """Forgets the features that a model made."""
        for key in [key for key in self._texts if key[0] == model]:
            del self._texts[key]
