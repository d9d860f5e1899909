"""A short video, prompts in it, and objects that are followed through it by a tracker."""

from dataclasses import dataclass, field

import numpy as np
from cutout_common.masks import rle_encode
from cutout_server.models.protocols import Tracker
from cutout_server.models.queries import MaskQuery, Tracked, TrackQuery
from cutout_server.types import Box, ObjectPrompt, Rle
from skimage import data

SIZES = {"square": (96, 96), "wide": (33, 128), "tall": (121, 40), "tiny": (5, 7)}


def video(size: tuple[int, int], frames: int) -> list[np.ndarray]:
    """A window that moves over a photograph."""
    height, width = size
    picture = data.astronaut()[::2, ::2]
    places = [(20 + 2 * i, 40 + 3 * i) for i in range(frames)]
    return [np.ascontiguousarray(picture[y : y + height, x : x + width]) for y, x in places]


def points(size: tuple[int, int], *shares: tuple[float, float, int], box: tuple[float, ...] = ()) -> ObjectPrompt:
    height, width = size
    return ObjectPrompt(
        points=np.array([(x * width, y * height) for x, y, _ in shares], np.float32).reshape(-1, 2),
        labels=np.array([label for *_, label in shares], np.int32),
        box=Box(*(np.array(box) * [width, height, width, height]).tolist()) if box else None,
    )


def blob(size: tuple[int, int]) -> Rle:
    mask = np.zeros(size, np.bool_)
    mask[size[0] // 4 : size[0] // 2 + 1, size[1] // 3 : size[1] // 2 + 2] = True
    return Rle(*size, rle_encode(mask))


@dataclass
class Session:
    """Objects followed by our tracker, as a caller of the Protocol keeps them."""

    model: Tracker
    held: int = 4
    frame: int = -1
    embeddings: dict[int, object] = field(default_factory=dict)
    memories: dict[int, object] = field(default_factory=dict)

    def step(self, pixels: np.ndarray, prompts: dict[int, object]) -> dict[int, np.ndarray]:
        self.look(pixels)
        return self.ask(self.frame, {**dict.fromkeys(self.memories), **prompts})

    def look(self, pixels: np.ndarray) -> None:
        self.frame += 1
        self.embeddings[self.frame] = self.model.encode([pixels])[0]
        self.embeddings.pop(self.frame - self.held, None)

    def ask(self, frame: int, prompts: dict[int, object]) -> dict[int, np.ndarray]:
        return {number: self.mask(self.embeddings[frame], each) for number, each in self.find(frame, prompts).items()}

    def find(self, frame: int, prompts: dict[int, object]) -> dict[int, Tracked]:
        oldest = max(0, self.frame - self.held + 1)
        embedding = self.embeddings[frame]
        answers = self.model.track(
            [
                TrackQuery(embedding, frame, self.memories.get(number), prompt, oldest)
                for number, prompt in prompts.items()
            ]
        )
        self.memories.update(zip(prompts, (answer.memory for answer in answers), strict=True))
        return dict(zip(prompts, answers, strict=True))

    def mask(self, embedding: object, answer: Tracked) -> np.ndarray:
        assert 0 <= answer.presence <= 1
        return self.model.masks([MaskQuery(embedding, answer.logits, 0.0)])[0].whole()
