"""What callers get."""

from dataclasses import dataclass, field
from enum import Enum

from cutout_server.types.images import Picture, RgbImage
from cutout_server.types.masks import Box, EncodedMask, Logits, Rle


@dataclass(frozen=True)
class ConceptScore:
    """How well a concept describes a picture.

    Attributes:
        concept: As the caller wrote it.
        score: Softmax over those of the request's concepts that do not read alike, in [0, 1].
        concept_index: Its index in the request.
        same_as: The index of an earlier one that it reads like, and with which it shares its score.
    """

    concept: str
    score: float
    concept_index: int
    same_as: int | None = None


@dataclass(frozen=True)
class RewrittenPhrase:
    """A noun phrase in place of a sentence.

    Attributes:
        phrase: What is looked for.
        prompt_index: The index of the caller's phrase that it stands for.
    """

    phrase: str
    prompt_index: int


@dataclass(frozen=True)
class Rewriting:
    """What a language model made of the caller's phrases.

    Attributes:
        phrases: What is looked for; the caller's own words when it failed.
        failure: Why it failed, for the caller; empty when it did not.
    """

    phrases: tuple[RewrittenPhrase, ...]
    failure: str = ""


@dataclass(frozen=True)
class SegmentedObject:
    """One object of an answer; see the contract's message of the same name.

    Attributes:
        mask: What the server itself works with.
        encoded: The mask in each of the formats that the request asked for, in that order.
        concepts: What its part of the picture shows, the best first; empty unless that was asked.
    """

    prompt_index: int
    label: str
    detection_score: float | None
    predicted_iou: float
    stability_score: float | None
    prompt_box: Box | None
    box: Box
    area: int
    mask: Rle
    logits: Logits | None = field(default=None, repr=False)
    encoded: tuple[EncodedMask, ...] = ()
    concepts: tuple[ConceptScore, ...] = ()

    @property
    def score(self) -> float:
        """What objects are ranked by: the detector's confidence when there is one, else the predicted IoU."""
        return self.predicted_iou if self.detection_score is None else self.detection_score


class OmissionReason(Enum):
    """Why a mask was left out."""

    EMPTY = "empty"
    BELOW_MIN_AREA = "below_min_area"
    DUPLICATE = "duplicate"
    BEYOND_MAX_OBJECTS = "beyond_max_objects"
    BELOW_PREDICTED_IOU = "below_predicted_iou"
    BELOW_STABILITY = "below_stability"
    CUT_OFF = "cut_off"
    SAME_PHRASE = "same_phrase"


@dataclass(frozen=True)
class Omission:
    """Masks that were left out for one reason, or phrases that were not asked.

    Attributes:
        threshold: What they did not reach, where that is the reason.
        best: The best value among them, likewise.
        same_as: The phrase that they read like.
    """

    reason: OmissionReason
    count: int
    prompt_indices: tuple[int, ...]
    threshold: float | None = None
    best: float | None = None
    same_as: int | None = None


@dataclass(frozen=True)
class EncodedOverlay:
    """The picture with everything drawn on it, as a file."""

    content_type: str
    data: bytes = field(repr=False)


@dataclass(frozen=True)
class AnswerFacts:
    """What an answer says beside its objects.

    Attributes:
        image: What it is about.
        omissions: What was left out.
        models: Names of those that worked on it, in their order.
        concepts: What the whole image shows.
        rewriting: What became of the phrases; None when they were not to be rewritten.
    """

    image: Picture
    omissions: tuple[Omission, ...]
    models: tuple[str, ...]
    concepts: tuple[ConceptScore, ...]
    rewriting: Rewriting | None


@dataclass(frozen=True)
class GenerationProgress:
    """How far a picture has come: `step` of `steps` are done."""

    prompt_index: int
    step: int
    steps: int


@dataclass(frozen=True)
class GeneratedPicture:
    """A picture that was made.

    Attributes:
        pixels: (H, W, 3) uint8 RGB.
        data: The same as a file.
    """

    prompt_index: int
    seed: int
    pixels: RgbImage = field(repr=False)
    content_type: str
    data: bytes = field(repr=False)
