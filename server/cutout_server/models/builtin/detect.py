"""From words to boxes."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import cv2
import numpy as np
from cutout_common.status import FieldViolation

from cutout_server.errors import InvalidRequestError
from cutout_server.models.builtin import cascades, colours
from cutout_server.models.builtin.boxes import Find, mapped, suppress
from cutout_server.models.builtin.cascades import Cascade, Cascades, Grey
from cutout_server.models.builtin.cats import cat_faces
from cutout_server.models.builtin.crops import shrunk
from cutout_server.models.builtin.embedding import embed
from cutout_server.models.builtin.found import around_face, salient
from cutout_server.models.builtin.network import Network
from cutout_server.models.builtin.words import COLOURS, VOCABULARY, concept_of
from cutout_server.models.embedding import own_embedding
from cutout_server.models.queries import Detection, DetectQuery
from cutout_server.types import Box, RgbImage

_SIDE, _PROFILE_SIDE, _CAT_SIDE = 640, 400, 256  # Longer side of the picture in which to look.
_SMALLEST = 24


class Detectors:
    """All detectors. Safe to use from several threads at once."""

    def __init__(self, network: Network) -> None:
        self._cascades, self._network = Cascades(), network

    def features(self, pixels: RgbImage) -> "BuiltinFeatures":
        """A (H, W, 3) uint8 RGB picture at which nobody has looked yet."""
        return BuiltinFeatures(pixels, self._cascades, self._network)

    def find(self, query: DetectQuery) -> list[Detection]:
        """Finds the phrases, the best first for each.

        Raises:
            InvalidRequestError: A phrase is outside the vocabulary.
            TypeError: The embedding is another model's.
        """
        concepts = [concept_of(phrase) for phrase in query.phrases]
        unknown = [
            FieldViolation(f"phrases[{index}]", _unknown(query.phrases[index]))
            for index, concept in enumerate(concepts)
            if concept is None
        ]
        if unknown:
            raise InvalidRequestError(*unknown)
        features = own_embedding(query.embedding, BuiltinFeatures)
        return [
            Detection(box, score, index)
            for index, concept in enumerate(concepts)
            for box, score in sorted(features.at(str(concept)), key=lambda find: -find[1])
            if score >= query.box_threshold
        ]


def _unknown(phrase: str) -> str:
    return (
        f"expected a word that the built-in model knows, got {phrase[:60]!r}. It knows only: "
        f"{', '.join(VOCABULARY)}. Neural detectors take any words; ListModels tells which ones are served"
    )


@dataclass(frozen=True, eq=False)
class BuiltinFeatures:
    """One picture; what was found once is not looked for again, whoever asks.

    Attributes:
        pixels: (H, W, 3) uint8 RGB.
        cascades: What looks for most things,
        network: and for what stands out, and for all of a cat.
        found: What was found by now, by concept; the same for everybody, so it does not matter who asked first.
    """

    pixels: RgbImage = field(repr=False)
    cascades: Cascades = field(repr=False)
    network: Network = field(repr=False)
    found: dict[str, list[Find]] = field(default_factory=dict, repr=False)

    @property
    def image_size(self) -> tuple[int, int]:
        """(height, width) of the picture, in pixels."""
        return self.pixels.shape[0], self.pixels.shape[1]

    @property
    def nbytes(self) -> int:
        """Memory that it holds, in bytes; finds are a few numbers."""
        return self.pixels.nbytes

    def at(self, concept: str) -> list[Find]:
        """Where a concept is, with scores in [0, 1]."""
        if concept not in self.found:
            look = self._by_concept()[concept]
            self.found[concept] = look()
        return self.found[concept]

    def _by_concept(self) -> dict[str, Callable[[], list[Find]]]:
        return {
            "face": self._faces,
            "person": self._people,
            "upper body": self._upper_bodies,
            "eye": self._eyes,
            "smile": self._smiles,
            "cat face": lambda: self._scaled(partial(cat_faces, self.cascades), _CAT_SIDE),
            "cat": self._cats,
            "plate": lambda: self._seen(cascades.PLATES),
            "object": lambda: salient(self.network, embed(self.pixels)),
            **{colour: lambda colour=colour: colours.regions(self.pixels, colour) for colour in COLOURS},  # type: ignore[misc]
        }

    def _faces(self) -> list[Find]:
        def profiles(grey: Grey) -> list[Find]:
            mirrored = np.asarray(cv2.flip(grey, 1), np.uint8)
            of_each = [self.cascades.find(way, cascades.PROFILES, _SMALLEST, step=1.15) for way in (grey, mirrored)]
            width = grey.shape[1]
            other = [(Box(width - b.x_max, b.y_min, width - b.x_min, b.y_max), score) for b, score in of_each[1]]
            return of_each[0] + other

        return cascades.merge(self._seen(cascades.FACES) + self._scaled(profiles, _PROFILE_SIDE))

    def _people(self) -> list[Find]:
        return suppress(self._beneath_faces(3.6, 7.5) + self._scaled(self.cascades.people))

    def _upper_bodies(self) -> list[Find]:
        return suppress(self._beneath_faces(3.2, 2.6) + self._seen(cascades.BODIES))

    def _beneath_faces(self, wide: float, high: float) -> list[Find]:
        """Bodies of so many face sides, hung from the crown of the head."""
        found: list[Find] = []
        for face, score in self.at("face"):
            side, middle = face.y_max - face.y_min, (face.x_min + face.x_max) / 2
            top = face.y_min - 0.35 * side
            whole = Box(middle - wide / 2 * side, top, middle + wide / 2 * side, top + high * side)
            if body := whole.clipped(*self.image_size):
                found.append((body, 0.95 * score))
        return found

    def _eyes(self) -> list[Find]:
        return self._in_faces(cascades.EYES, 0.1, 0.6)

    def _smiles(self) -> list[Find]:
        best: dict[int, Find] = {}
        for box, score in self._in_faces(cascades.SMILES, 0.55, 1.1):
            best.setdefault(self._face_of(box), (box, score))  # A face has one mouth.
        return list(best.values())

    def _face_of(self, box: Box) -> int:
        x, y = (box.x_min + box.x_max) / 2, (box.y_min + box.y_max) / 2
        away = [np.hypot(x - (f.x_min + f.x_max) / 2, y - (f.y_min + f.y_max) / 2) for f, _ in self.at("face")]
        return int(np.argmin(away))

    def _cats(self) -> list[Find]:
        embedding = embed(self.pixels)
        return suppress([(around_face(self.network, embedding, box), score) for box, score in self.at("cat face")])

    def _seen(self, kinds: tuple[Cascade, ...]) -> list[Find]:
        return self._scaled(lambda grey: self.cascades.find(grey, kinds, _SMALLEST))

    def _scaled(self, look: Callable[[Grey], list[Find]], side: int = _SIDE) -> list[Find]:
        """Looks at the picture at a bounded size; boxes come back in its own pixels."""
        small = shrunk(self.pixels, side)
        y, x = self.pixels.shape[0] / small.shape[0], self.pixels.shape[1] / small.shape[1]
        found = look(np.asarray(cv2.cvtColor(small, cv2.COLOR_RGB2GRAY), np.uint8))
        return [(mapped(box, x, y), score) for box, score in found]

    def _in_faces(self, kinds: tuple[Cascade, ...], start: float, end: float) -> list[Find]:
        """Looks only between two heights of each face, as parts of it, and at twice 100 pixels a face."""
        height = self.pixels.shape[0]
        found: list[Find] = []
        for face, face_score in self.at("face"):
            side = face.y_max - face.y_min
            top, bottom = int(face.y_min + start * side), min(int(face.y_min + end * side), height)
            part = self.pixels[top:bottom, int(face.x_min) : int(face.x_max)]
            scale = 200 / side
            size = max(1, round(part.shape[1] * scale)), max(1, round(part.shape[0] * scale))
            grey = np.asarray(cv2.cvtColor(cv2.resize(part, size), cv2.COLOR_RGB2GRAY), np.uint8)
            found += [
                (
                    mapped(box, 1 / scale, 1 / scale, int(face.x_min), top),
                    min(1.0, 0.5 * score + 0.5 * face_score + 0.1),
                )
                for box, score in self.cascades.find(grey, kinds, _SMALLEST)
            ]
        return suppress(found)
