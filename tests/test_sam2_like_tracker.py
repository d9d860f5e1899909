"""EdgeTAM and SAM 3 follow objects as transformers' own video models and processors do on the same folders."""

# ruff: noqa: F811 - fixtures are imported

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import run_server
from cutout_common.masks import rle_decode, rle_encode
from cutout_server.errors import FailedPreconditionError
from cutout_server.models import edgetam, sam3
from cutout_server.models.protocols import Tracker
from cutout_server.models.queries import MaskQuery, Tracked, TrackQuery
from cutout_server.types import Box, ModelFiles, ObjectPrompt, Rle
from edgetam_checkpoints import edgetam_folder, edgetam_video_folder  # noqa: F401 - fixtures
from sam3_checkpoints import sam3_video_folder  # noqa: F401 - a fixture
from test_service_tracking import SIDE, SIZE, Live, boxed, decoded, frame, masked, picture, place, truth
from tracking_cases import SIZES, Session, blob, points, video
from transformers import (
    EdgeTamVideoModel,
    Sam2ImageProcessor,
    Sam2VideoProcessor,
    Sam2VideoVideoProcessor,
    Sam3ImageProcessor,
    Sam3TrackerVideoModel,
    Sam3TrackerVideoProcessor,
)

pytestmark = pytest.mark.slow


@dataclass(frozen=True)
class Bench:
    """One model in both implementations."""

    name: str
    folder: Path
    ours: Any
    model: Any
    processor: Any


@pytest.fixture(scope="module", params=["edgetam", "sam3"])
def bench(request: pytest.FixtureRequest) -> Bench:
    folder = request.getfixturevalue(f"{request.param}_video_folder")
    if request.param == "edgetam":
        model, images = EdgeTamVideoModel.from_pretrained(folder), Sam2ImageProcessor
        ours, kind = edgetam.load(ModelFiles(folder), "cpu"), Sam2VideoProcessor
    else:
        model, images = Sam3TrackerVideoModel.from_pretrained(folder), Sam3ImageProcessor
        ours, kind = sam3.load(ModelFiles(folder), "cpu"), Sam3TrackerVideoProcessor
    size = {"height": model.image_size, "width": model.image_size}
    processor = kind(images(size=size), Sam2VideoVideoProcessor(size=size), model.image_size)
    return Bench(request.param, folder, ours, model.eval(), processor)


@dataclass(frozen=True)
class Seen:
    """What the reference says of an object in a frame."""

    logits: np.ndarray
    presence: float
    predicted_iou: float
    mask: np.ndarray


class Reference:
    """transformers' documented way, with a session for each object, as its model looks at one after the other."""

    def __init__(self, bench: Bench, frames: list[np.ndarray], *, live: bool) -> None:
        self.model, self.processor, self.live = bench.model, bench.processor, live
        self.pixels = [self.processor(images=frame, return_tensors="pt").pixel_values[0] for frame in frames]
        self.size = frames[0].shape[:2]
        self.sessions: dict[int, Any] = {}

    def prompt(self, frame: int, number: int, prompt: ObjectPrompt | Rle) -> Seen:
        session = self.sessions.setdefault(number, self.processor.init_video_session())
        if not self.live:
            session.processed_frames = dict(enumerate(self.pixels))
        asked: dict[str, Any] = {}
        if isinstance(prompt, Rle):
            asked["input_masks"] = rle_decode(prompt.height, prompt.width, prompt.counts)
        elif len(prompt.points):
            asked["input_points"] = [[prompt.points.tolist()]]
            asked["input_labels"] = [[prompt.labels.tolist()]]
        if isinstance(prompt, ObjectPrompt) and prompt.box:
            asked["input_boxes"] = [[list(vars(prompt.box).values())]]
        if not isinstance(prompt, Rle):
            asked["original_size"] = self.size
        self.processor.add_inputs_to_inference_session(session, frame, number, **asked)
        return self.find(frame, number)

    def find(self, frame: int, number: int, *, reverse: bool = False) -> Seen:
        scores = []
        hook = self.model.mask_decoder.register_forward_hook(lambda *given: scores.append(given[2][1].max().item()))
        given = {"frame": self.pixels[frame]} if self.live else {}
        with torch.inference_mode():
            answer = self.model(self.sessions[number], frame_idx=frame, reverse=reverse, **given)
        hook.remove()
        (full,) = self.processor.post_process_masks([answer.pred_masks], [self.size], binarize=False)
        presence = answer.object_score_logits.sigmoid().item()
        return Seen(answer.pred_masks[0, 0].numpy(), presence, scores[-1] if scores else 1.0, full[0, 0].numpy())


def assert_same(ours: Any, embedding: Any, answer: Tracked, seen: Seen, *, given: bool = False) -> float:
    """Logits to 1e-3, and the mask but for 3 pixels; says how much of the frame it covers."""
    np.testing.assert_allclose(answer.logits, seen.logits, rtol=1e-4, atol=1e-3)
    assert answer.presence == pytest.approx(seen.presence, abs=1e-4)
    assert answer.predicted_iou == pytest.approx(1.0 if given else seen.predicted_iou, abs=1e-4)
    mask = ours.masks([MaskQuery(embedding, answer.logits, 0.0)])[0].whole()
    differs = mask != (seen.mask > 0)
    assert np.abs(seen.mask[differs]).max(initial=0) < 1e-2
    assert np.count_nonzero(differs) <= 3
    return float(mask.mean())


@pytest.mark.parametrize("name", SIZES)
def test_objects_are_followed_as_by_transformers(bench, name):
    """Points, boxes and masks, on the first frame and later, several objects, added late, corrected; any size."""
    size = SIZES[name]
    frames = video(size, 7 if name == "square" else 2)
    session, reference = Session(bench.ours), Reference(bench, frames, live=True)
    clicks = (1, 3, 4, 6, 9) if name == "square" else (1,)
    prompts = {
        0: {number: points(size, (0.1 * number, 0.3, 1)) for number in clicks}
        | {2: points(size, box=(0.2, 0.1, 0.7, 0.9)), 5: blob(size)},
        2: {7: blob(size), 8: points(size, (0.6, 0.6, 1), (0.2, 0.2, 0))},
        4: {1: points(size, (0.5, 0.5, 1), box=(0.3, 0.2, 0.8, 0.8)), 7: points(size, (0.5, 0.4, 1))},
    }
    corrections = {3: (2, 2, points(size, (0.5, 0.5, 1), (0.1, 0.1, 0))), 5: (4, 8, points(size, (0.4, 0.6, 1)))}
    areas, presences = [], []
    for index, pixels in enumerate(frames):
        said = prompts.get(index, {})
        session.look(pixels)
        for number, answer in session.find(index, {**dict.fromkeys(session.memories), **said}).items():
            prompt = said.get(number)
            seen = reference.find(index, number) if prompt is None else reference.prompt(index, number, prompt)
            given = isinstance(prompt, Rle)
            areas.append(assert_same(bench.ours, session.embeddings[index], answer, seen, given=given))
            presences.append(answer.presence)
        if index in corrections:
            where, number, prompt = corrections[index]
            (answer,) = session.find(where, {number: prompt}).values()
            assert_same(bench.ours, session.embeddings[where], answer, reference.prompt(where, number, prompt))
    assert sum(0.01 < area < 0.99 for area in areas) >= len(areas) // 3
    if name == "square":
        assert min(presences) < 0.5 < max(presences)


@pytest.mark.parametrize("reverse", [False, True])
def test_a_whole_video_is_gone_through_as_by_transformers(bench, reverse):
    """Prompts said beforehand, on several frames, its length known; backwards, too."""
    size = SIZES["square"]
    frames = video(size, 7)
    embeddings = [bench.ours.encode([pixels])[0] for pixels in frames]
    reference, memories, areas = Reference(bench, frames, live=False), {}, []
    for where, number, prompt in (
        (3, 1, points(size, (0.4, 0.3, 1))),
        (3, 2, blob(size)),
        (5 if reverse else 2, 1, points(size, (0.5, 0.5, 1))),
    ):
        (answer,) = bench.ours.track(
            [TrackQuery(embeddings[where], where, memories.get(number), prompt, 0, frames=len(frames))]
        )
        memories[number] = answer.memory
        seen = reference.prompt(where, number, prompt)
        assert_same(bench.ours, embeddings[where], answer, seen, given=isinstance(prompt, Rle))
    for where in (2, 1, 0) if reverse else (4, 5, 6):
        oldest = len(frames) - 1 if reverse else 0
        queries = [TrackQuery(embeddings[where], where, each, None, oldest, reverse, 7) for each in memories.values()]
        for number, answer in zip(list(memories), bench.ours.track(queries), strict=True):
            seen = reference.find(where, number, reverse=reverse)
            areas.append(assert_same(bench.ours, embeddings[where], answer, seen))
            memories[number] = answer.memory
    assert sum(0.01 < area < 0.99 for area in areas) >= 3


def test_it_is_a_tracker(bench, edgetam_folder):
    """It fills in the Protocol; a folder for pictures alone says what to use instead."""
    assert isinstance(bench.ours, Tracker)
    stills = edgetam.load(ModelFiles(edgetam_folder), "cpu")
    (embedding,) = stills.encode([np.zeros((5, 5, 3), np.uint8)])
    with pytest.raises(FailedPreconditionError, match="the folder of the video model"):
        stills.track([TrackQuery(embedding, 0, None, blob((5, 5)), 0)])
    (embedding,) = bench.ours.encode([np.zeros((5, 5, 3), np.uint8)])
    with pytest.raises(ValueError, match="no prompt"):
        bench.ours.track([TrackQuery(embedding, 0, None, None, 0)])


def test_a_live_session_gets_the_models_masks(bench):
    """Through the server: present or not, with the masks that the model itself gives."""
    top, left = place(0)
    box = ObjectPrompt(box=Box(left, top, left + SIDE, top + SIDE))
    prompts, session = {1: box, 2: Rle(*SIZE, rle_encode(truth(0)))}, Session(bench.ours)
    served = {"name": bench.name, "family": bench.name, "checkpoint": str(bench.folder)}
    seen = []
    with run_server(models=[served]) as server, server.channel() as channel:
        live = Live(channel)
        assert live.opened.tracker == bench.name
        for index in range(3):
            said = [] if index else [boxed(1), masked(2, truth(0))]
            answer = live.ask(frame(index, *said)).frame
            expected = session.step(picture(index), {} if index else prompts)
            assert [found.object_id for found in answer.objects] == [*expected]
            for found, mask in zip(answer.objects, expected.values(), strict=True):
                assert found.present == mask.any()
                got = decoded(found) if found.present else np.zeros_like(mask)
                assert np.count_nonzero(got != mask) <= 3
                seen.append(found.present)
        live.end()
    assert any(seen)
