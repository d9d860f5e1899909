"""What a picture, or a part of it, shows; and what a language model made of phrases."""

from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True)
class ConceptScore:
    """One concept.

    Attributes:
        concept: As the caller wrote it.
        score: Softmax over the concepts that were asked about, in [0, 1].
        concept_index: Its index among them.
        same_as: The index of an earlier one that it reads like, and with which it shares its score.
    """

    concept: str
    score: float
    concept_index: int
    same_as: int | None = None


@dataclass(frozen=True)
class Concepts:
    """How well each concept describes a picture or a part of it: a sequence, the best first.

    Attributes:
        scores: One for each concept; those of concepts that do not read alike sum to 1.
    """

    scores: tuple[ConceptScore, ...]

    def __iter__(self) -> Iterator[ConceptScore]:
        return iter(self.scores)

    def __len__(self) -> int:
        return len(self.scores)

    @property
    def best(self) -> ConceptScore:
        """The concept that describes it best."""
        return self.scores[0]

    def to_dict(self) -> dict[str, float]:
        """Each concept's score, the best first."""
        return {each.concept: each.score for each in self.scores}


@dataclass(frozen=True)
class RewrittenPhrase:
    """A noun phrase in place of a sentence.

    Attributes:
        phrase: What was looked for; it is the label of what was found.
        prompt_index: The index of the caller's phrase that it stands for.
    """

    phrase: str
    prompt_index: int


@dataclass(frozen=True)
class Rewriting:
    """What a language model made of the caller's phrases.

    Attributes:
        phrases: What was looked for; the caller's own words when they could not be rewritten.
        failure: Why they could not; empty when they were.
    """

    phrases: tuple[RewrittenPhrase, ...]
    failure: str
