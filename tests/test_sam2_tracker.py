"""SAM 2 follows objects as the official video predictor does on the same weights."""

import gc
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

import numpy as np
import pytest
import sam2.sam2_video_predictor as official_module
import torch
from checkpoints import narrow_config, official_model, write_sam2
from cutout_common.masks import rle_decode
from cutout_server.models.memory_bank import PROMPTED_FRAMES
from cutout_server.models.protocols import Tracker
from cutout_server.models.queries import MaskQuery, TrackQuery
from cutout_server.models.sam2 import Sam2, architecture, load
from cutout_server.types import ModelFiles, Rle
from sam2.build_sam import build_sam2_video_predictor
from sam2.utils.transforms import SAM2Transforms
from tracking_cases import SIZES, Session, blob, points, video

PRESENCE = 2.0
ENDLESS = 10_000  # As nobody knows how long a live video is; the predictor's answers depend on it below 16 frames.


class Reference:
    """The same by `SAM2VideoPredictor`, one frame at a time, on the frames as pictures are scaled."""

    def __init__(
        self,
        predictor: torch.nn.Module,
        frames: list[np.ndarray],
        monkeypatch: pytest.MonkeyPatch,
        length: int = ENDLESS,
    ) -> None:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", r".*torch\.jit\.script.*")
            images = torch.stack([SAM2Transforms(predictor.image_size, 0.0)(frame) for frame in frames])
        monkeypatch.setattr(official_module, "load_video_frames", lambda **_: (images, *frames[0].shape[:2]))
        self.predictor = predictor
        self.state = predictor.init_state("")
        self.state["num_frames"] = length
        self.frame = -1

    def step(self, prompts: dict[int, object]) -> dict[int, np.ndarray]:
        self.frame += 1
        for number, prompt in prompts.items():
            self.prompt(self.frame, number, prompt)
        if not self.state["obj_ids"]:
            return {}
        propagated = self.predictor.propagate_in_video(self.state, self.frame, 0)
        _, numbers, logits = next(propagated)
        return {number: each[0].numpy() > 0 for number, each in zip(numbers, logits, strict=True)}

    def prompt(self, frame: int, number: int, prompt: object) -> np.ndarray:
        if isinstance(prompt, Rle):
            mask = rle_decode(prompt.height, prompt.width, prompt.counts)
            _, numbers, logits = self.predictor.add_new_mask(self.state, frame, number, mask)
        else:
            box = None if prompt.box is None else np.array(list(vars(prompt.box).values()), np.float32)
            _, numbers, logits = self.predictor.add_new_points_or_box(
                self.state, frame, number, points=prompt.points, labels=prompt.labels, box=box
            )
        return logits[numbers.index(number)][0].numpy() > 0


def written(folder: Path, **changes) -> ModelFiles:
    """A narrow checkpoint of which most frames show the object: random weights see it in none."""
    config = narrow_config(folder, **changes)
    path = write_sam2(folder, config)
    weights = torch.load(path, weights_only=True)
    weights["model"]["sam_mask_decoder.pred_obj_score_head.layers.2.bias"] += PRESENCE
    torch.save(weights, path)
    return ModelFiles(path, str(config))


def official(files: ModelFiles) -> torch.nn.Module:
    predictor = official_model(Path(files.config), files.checkpoint, build_sam2_video_predictor)
    predictor.fill_hole_area = 0  # Only its CUDA extension fills any.
    return predictor


@pytest.fixture(scope="module")
def small(tmp_path_factory) -> Iterator[ModelFiles]:
    """With a side of 256, where attention is cheap; it attends to few frames, so that a short video is beyond them."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield written(tmp_path_factory.mktemp("tracker"), image_size=256, num_maskmem=3, max_obj_ptrs_in_encoder=4)
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def ours(small) -> Sam2:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(architecture, "_SIDE", 256)
        return load(small, "cpu")


@pytest.fixture(scope="module")
def predictor(small) -> torch.nn.Module:
    return official(small)


def assert_same(ours: dict[int, np.ndarray], theirs: dict[int, np.ndarray]) -> None:
    assert ours.keys() == theirs.keys()
    for number, mask in ours.items():
        assert np.array_equal(mask, theirs[number]), number


def test_objects_are_followed_as_by_the_predictor(ours, predictor, monkeypatch):
    """Points, boxes and masks, on the first frame and later, several objects, added late, corrected: the same masks."""
    size = SIZES["square"]
    frames = video(size, 7)
    session, reference = Session(ours), Reference(predictor, frames, monkeypatch)
    prompts = {
        0: {1: points(size, (0.4, 0.3, 1)), 2: points(size, box=(0.2, 0.1, 0.7, 0.9))},
        2: {7: blob(size), 8: points(size, (0.6, 0.6, 1), (0.2, 0.2, 0))},
        4: {1: points(size, (0.5, 0.5, 1), box=(0.3, 0.2, 0.8, 0.8)), 7: points(size, (0.5, 0.4, 1))},
    }
    corrections = {3: (3, 2, points(size, (0.5, 0.5, 1), (0.1, 0.1, 0))), 5: (4, 8, points(size, (0.4, 0.6, 1)))}
    areas = []
    for number, frame in enumerate(frames):
        found = session.step(frame, prompts.get(number, {}))
        assert_same(found, reference.step(prompts.get(number, {})))
        areas += [mask.mean() for mask in found.values()]
        if number in corrections:
            where, which, prompt = corrections[number]
            (corrected,) = session.ask(where, {which: prompt}).values()
            assert np.array_equal(corrected, reference.prompt(where, which, prompt))
    assert sum(0.01 < area < 0.99 for area in areas) > len(areas) // 2


def test_objects_are_kept_from_overlapping_as_by_the_predictor(ours, predictor, monkeypatch):
    """With `non_overlap_masks`, but where two objects are alike to 1e-4; what is remembered overlaps still."""
    size = SIZES["square"]
    frames = video(size, 3)
    reference, session = Reference(predictor, frames, monkeypatch), Session(ours)
    monkeypatch.setattr(predictor, "non_overlap_masks", True)
    prompts = {1: points(size, (0.4, 0.3, 1)), 2: points(size, (0.5, 0.5, 1)), 3: blob(size)}
    shared = 0  # Pixels that two objects would have.
    for number, pixels in enumerate(frames):
        theirs = reference.step({} if number else prompts)
        embedding = ours.encode([pixels])[0]
        queries = [
            TrackQuery(embedding, number, session.memories.get(each), None if number else prompts[each], 0)
            for each in prompts
        ]
        answers = ours.track(queries)
        session.memories = dict(zip(prompts, (answer.memory for answer in answers), strict=True))
        wanted = [MaskQuery(embedding, answer.logits, 0.0) for answer in answers]
        masks = ours.exclusive_masks([wanted])[0]
        found = np.stack([rle_decode(mask.height, mask.width, mask.counts) for mask in masks])
        *_, second, highest = np.sort([ours._full(query) for query in wanted], axis=0)
        is_clear = highest - second > 1e-4
        assert is_clear.mean() > 0.9
        assert np.array_equal(found & is_clear, np.stack(list(theirs.values())) & is_clear)
        assert found.sum(axis=0).max() == 1
        shared += np.count_nonzero(second > 0)
    assert shared > 100


def test_hidden_objects_are_found_again_as_by_the_predictor(ours, predictor, monkeypatch):
    """The same masks before, none while the model sees no object, and the same ones afterwards."""
    size = SIZES["square"]
    frames = video(size, 6)
    session, reference = Session(ours), Reference(predictor, frames, monkeypatch)
    prompts = {1: points(size, (0.4, 0.3, 1)), 2: points(size, box=(0.2, 0.1, 0.7, 0.9))}
    areas = []
    for number, frame in enumerate(frames):
        with nothing_seen(ours._tracker._model, predictor) if number in {2, 3} else nullcontext():
            found = session.step(frame, {} if number else prompts)
            assert_same(found, reference.step({} if number else prompts))
        areas.append([mask.mean() for mask in found.values()])
    assert np.max(areas[2:4]) == 0
    assert np.min(areas[:2] + areas[4:]) > 0.01


@contextmanager
def nothing_seen(*models: torch.nn.Module) -> Iterator[None]:
    """What they say of a frame in which objects are hidden; random weights do not see it by themselves."""
    biases = [model.sam_mask_decoder.pred_obj_score_head.layers[2].bias for model in models]
    with torch.no_grad():
        for bias in biases:
            bias.sub_(2 * PRESENCE)
        yield
        for bias in biases:
            bias.add_(2 * PRESENCE)


@pytest.mark.parametrize("passes", [(True,), (False, True)], ids=["backward", "both"])
def test_a_whole_video_is_gone_through_as_by_the_predictor(ours, predictor, monkeypatch, passes):
    """Prompts said beforehand, on several frames, its length known; backwards, too, also after a pass forwards."""
    size = SIZES["square"]
    frames = video(size, 7)
    prompts = {(3, 1): points(size, (0.4, 0.3, 1)), (3, 2): blob(size), (5, 1): points(size, (0.5, 0.5, 1))}
    embeddings = [ours.encode([frame])[0] for frame in frames]
    reference = Reference(predictor, frames, monkeypatch, len(frames))
    session, first = Session(ours), {}
    for (frame, number), prompt in prompts.items():
        query = TrackQuery(embeddings[frame], frame, session.memories.get(number), prompt, 0, frames=len(frames))
        first[frame, number] = ours.track([query])[0]
        session.memories[number] = first[frame, number].memory
        reference.prompt(frame, number, prompt)
    seen = 0
    for reverse in passes:
        for frame, numbers, logits in reference.predictor.propagate_in_video(reference.state, reverse=reverse):
            for number, theirs in zip(numbers, logits, strict=True):
                oldest = len(frames) - 1 if reverse else 0
                memory = session.memories[number]
                query = TrackQuery(embeddings[frame], frame, memory, None, oldest, reverse, len(frames))
                answer = first.get((frame, number)) or ours.track([query])[0]
                if (frame, number) not in first:
                    session.memories[number] = answer.memory
                mask = session.mask(embeddings[frame], answer)
                assert np.array_equal(mask, theirs[0].numpy() > 0), (frame, number, reverse)
                seen += 0.01 < mask.mean() < 0.99
    assert seen >= 4


@pytest.mark.parametrize("name", ["wide", "tall", "tiny"])
def test_frames_of_any_size_are_followed_as_by_the_predictor(ours, predictor, monkeypatch, name):
    """Odd sizes: the same masks."""
    frames = video(SIZES[name], 3)
    session, reference = Session(ours), Reference(predictor, frames, monkeypatch)
    first = {1: points(SIZES[name], (0.5, 0.5, 1)), 2: blob(SIZES[name])}
    for number, frame in enumerate(frames):
        prompts = {} if number else first
        assert_same(session.step(frame, prompts), reference.step(prompts))


def test_the_published_size_is_followed_as_by_the_predictor(tmp_path, monkeypatch):
    """At a side of 1024, with the memory that the published models have."""
    files = written(tmp_path)
    size = SIZES["square"]
    frames = video(size, 3)
    session, reference = Session(load(files, "cpu")), Reference(official(files), frames, monkeypatch)
    for number, frame in enumerate(frames):
        prompts = {} if number else {1: points(size, box=(0.2, 0.1, 0.7, 0.9))}
        found = session.step(frame, prompts)
        assert_same(found, reference.step(prompts))
        assert 0.01 < found[1].mean() < 0.99


def test_objects_in_company_get_the_masks_that_they_get_alone(ours):
    """Though those that remember the same frames share the passes."""
    size = SIZES["square"]
    frames = video(size, 3)
    prompts = {number: points(size, (0.1 * number, 0.5, 1)) for number in range(1, 7)}
    together = Session(ours)
    found = [together.step(frame, {} if index else prompts) for index, frame in enumerate(frames)]
    for number in (1, 6):
        alone = Session(ours)
        for index, frame in enumerate(frames):
            mask = alone.step(frame, {} if index else {number: prompts[number]})[number]
            assert np.array_equal(mask, found[index][number])


def test_memory_does_not_grow_with_the_frames(ours, monkeypatch):
    """Its size after many frames, some of them prompted, is that after a few; and it is what the tensors take."""
    size = SIZES["tiny"]
    session = Session(ours, held=2)
    _without_attention(ours, monkeypatch)
    sizes = []
    for number in range(300):
        prompts = {1: points(size, (0.5, 0.5, 1))} if number % 7 == 0 else {}
        _again(session, prompts) if number else session.step(np.zeros((*size, 3), np.uint8), prompts)
        sizes.append(session.memories[1].nbytes)
    assert max(sizes[100:]) == max(sizes[200:])
    memory = session.memories[1]
    assert len(memory.prompted) == PROMPTED_FRAMES
    assert min(memory.prompted) == 0
    looks = [*memory]
    held = [each for look in looks for each in (look.features, look.pointer, look.logits) if each is not None]
    assert memory.nbytes == sum(tensor.untyped_storage().nbytes() for tensor in held)
    del looks, held, memory
    session.memories.clear()
    gc.collect()


def _without_attention(model: Sam2, monkeypatch: pytest.MonkeyPatch) -> None:
    """Answers of the right form at once: only the bookkeeping is looked at."""

    def step(**given):
        count = given["current_vision_feats"][-1].shape[1]
        kept = given["output_dict"]["cond_frame_outputs"].values()
        assert all(out["maskmem_features"] is not None for out in kept)
        ones = torch.ones(count, 1)
        masks = torch.zeros(count, 1, 64, 64)
        return None, (None, None, ones, masks, masks, torch.zeros(count, 32), ones), None, None

    def encode(features, *_, **__):
        return torch.zeros(features[-1].shape[1], 16, 16, 16), None

    monkeypatch.setattr(model._tracker._model, "_track_step", step)
    monkeypatch.setattr(model._tracker._model, "_encode_new_memory", encode)


def _again(session: Session, prompts: dict[int, object]) -> None:
    session.frame += 1
    session.embeddings[session.frame] = session.embeddings[session.frame - 1]
    session.ask(session.frame, {**dict.fromkeys(session.memories), **prompts})


def test_the_model_keeps_nothing(ours):
    """An older memory gives the older answer again, whatever came between."""
    size = SIZES["square"]
    frames = video(size, 2)
    session = Session(ours)
    session.step(frames[0], {1: points(size, (0.4, 0.3, 1))})
    before = session.memories[1]
    embedding = ours.encode([frames[1]])[0]
    query = TrackQuery(embedding, 1, before, None, 0)
    first = ours.track([query])[0].logits
    session.step(frames[1], {1: points(size, (0.9, 0.9, 1)), 2: blob(size)})
    assert np.array_equal(ours.track([query])[0].logits, first)


def test_what_cannot_be_followed_is_refused(ours):
    """Memories of other families, and objects of which nothing was said."""
    embedding = ours.encode([np.zeros((5, 5, 3), np.uint8)])[0]

    class Foreign:
        nbytes = 0

    with pytest.raises(TypeError, match="Foreign"):
        ours.track([TrackQuery(embedding, 0, Foreign(), None, 0)])
    with pytest.raises(ValueError, match="no prompt"):
        ours.track([TrackQuery(embedding, 0, None, None, 0)])
    assert isinstance(ours, Tracker)
