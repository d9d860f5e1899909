"""Objects that share no pixel, through the real stack, as the official video predictor keeps them apart."""

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from conftest import RunningServer, run_server
from cutout.v1 import mask_pb2
from cutout.v1 import tracking_service_pb2 as pb2
from cutout_server.errors import UnavailableError
from cutout_server.models.builtin.tracking import BuiltinMemory
from cutout_server.models.queries import Tracked
from cutout_server.models.sam2 import architecture
from cutout_server.pipelines.followed import Followed
from cutout_server.pools.device import DevicePool
from cutout_server.types import ObjectPrompt, Rle
from test_sam2_tracker import Reference, official, written
from test_service_tracking import Live, boxed, decoded, frame, masked, saying, squares, truth
from tracking_cases import SIZES, blob, points, video

SQUARE = SIZES["square"]
CLEAR = 1e-4  # Where two objects' logits differ by less, rounding decides.


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[RunningServer, torch.nn.Module]]:
    """A server with a small SAM 2, and the predictor of the same weights."""
    files = written(tmp_path_factory.mktemp("apart"), image_size=256, num_maskmem=3, max_obj_ptrs_in_encoder=4)
    model = {"name": "small", "family": "sam2", "checkpoint": str(files.checkpoint), "config": files.config}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(architecture, "_SIDE", 256)
        with run_server(models=[model]) as server:
            yield server, official(files)


def said(number: int, prompt: ObjectPrompt | Rle) -> pb2.TrackPrompt:
    if isinstance(prompt, Rle):
        return pb2.TrackPrompt(object_id=number, mask={"size": SQUARE, "counts": prompt.counts.decode()})
    clicks = [
        mask_pb2.Point(x=x, y=y, label=int(label))
        for (x, y), label in zip(prompt.points.tolist(), prompt.labels.tolist(), strict=True)
    ]
    return pb2.TrackPrompt(object_id=number, points=clicks)


def test_a_correction_is_compared_with_all_objects_of_its_frame(
    served: tuple[RunningServer, torch.nn.Module], monkeypatch: pytest.MonkeyPatch
):
    """With `non_overlap_masks`, but where rounding decides: what one object gains there others lose, and it is said."""
    server, predictor = served
    compared: list[np.ndarray] = []  # Logits of all objects, at the frame's size.
    constrain = predictor._apply_non_overlapping_constraints
    monkeypatch.setattr(predictor, "non_overlap_masks", True)
    monkeypatch.setattr(
        predictor,
        "_apply_non_overlapping_constraints",
        lambda logits: compared.append(logits[:, 0].numpy().copy()) or constrain(logits),
    )
    frames = video(SQUARE, 4)
    reference = Reference(predictor, frames, monkeypatch)
    first = {1: points(SQUARE, (0.4, 0.3, 1)), 2: points(SQUARE, (0.5, 0.5, 1)), 3: blob(SQUARE)}
    corrections = {1: (1, 2, points(SQUARE, (0.6, 0.3, 1), (0.1, 0.1, 0))), 2: (1, 3, points(SQUARE, (0.3, 0.6, 1)))}
    contested = 0

    def assert_same(answer: pb2.TrackedFrame) -> None:
        assert [each.object_id for each in answer.objects] == list(first)
        ours = np.stack([decoded(each) if each.present else np.zeros(SQUARE, np.bool_) for each in answer.objects])
        logits = compared[-1]
        *_, second, highest = np.sort(logits, axis=0)
        is_clear = highest - second > CLEAR
        assert is_clear.mean() > 0.9
        theirs = (logits == highest) & (logits > 0)
        assert np.array_equal(ours & is_clear, theirs & is_clear)
        assert ours.sum(axis=0).max() == 1
        nonlocal contested
        contested += np.count_nonzero(second > 0)

    with server.channel() as channel:
        live = Live(channel, options={"non_overlapping": True})
        for number, pixels in enumerate(frames):
            prompts = {} if number else first
            reference.step(prompts)
            assert_same(live.ask(frame(number, *(said(*each) for each in prompts.items()), pixels=pixels)).frame)
            if number in corrections:
                where, which, prompt = corrections[number]
                reference.prompt(where, which, prompt)
                correction = {"frame_index": where, "prompts": [said(which, prompt)]}
                answer = live.ask(pb2.TrackObjectsRequest(correct=correction)).frame
                assert answer.corrected
                assert_same(answer)
        live.end()
    assert contested > 100


def test_what_words_find_takes_no_pixel_of_what_is_followed(server: RunningServer):
    """It begins in the frame in which the others were found, and is compared with them there."""
    with server.channel() as channel:
        live = Live(channel, options={"non_overlapping": True})
        left = np.zeros(squares(0).shape[:2], np.bool_)
        left[:, :25] = True  # Half of the blue square.
        live.ask(frame(0, masked(7, left), pixels=squares(0)))
        found = live.ask(saying(frame(1, pixels=squares(1)), "blue")).frame
        assert [each.object_id for each in found.objects] == [1, 7]
        assert not (decoded(found.objects[0]) & decoded(found.objects[1])).any()
        live.end()


@pytest.mark.parametrize("held", [1, 3])
def test_what_is_kept_for_comparison_counts(server: RunningServer, held: int):
    """From the first frame on there is room for it, it is told as memory, and it does not grow with the frames."""
    with server.channel() as channel:
        sizes = {}
        for apart in (False, True):
            live = Live(channel, held_frames=held, options={"non_overlapping": apart})
            live.ask(frame(0, masked(1, truth(0)), boxed(2)))
            reserved = server.app.status().tracking.reserved_bytes
            sizes[apart] = [live.ask(frame(index)).frame.memory_bytes for index in range(1, 6)]
            assert server.app.status().tracking.reserved_bytes == reserved >= max(sizes[apart])
            live.end()
        sightings = [apart - otherwise for apart, otherwise in zip(sizes[True], sizes[False], strict=True)]
        assert sightings[-1] > 0
        assert len(set(sightings[held:])) == 1


def test_no_sighting_takes_more_than_the_first():
    """Logits of more values are kept scaled down."""
    memory = BuiltinMemory(0, np.zeros((2, 2, 3), np.uint8), np.zeros((2, 2), np.float32), None, 0.0, {})
    followed = Followed(memory)
    for frame_number, shape in enumerate([(6, 9), (60, 90), (3, 4)]):
        logits = np.full(shape, 2.0, np.float32)
        followed = followed.seen(frame_number, Tracked(logits, 0.5, 1.0, memory), 0)
    assert [each.logits.shape for each in followed.sightings.values()] == [(6, 9), (6, 9), (3, 4)]
    assert all((each.logits == 2).all() for each in followed.sightings.values())


def test_a_frame_that_finds_no_room_is_as_if_it_had_not_come(server: RunningServer, monkeypatch: pytest.MonkeyPatch):
    """Its objects are not followed, nor remembered."""

    async def fails(pool: DevicePool) -> None:
        raise UnavailableError("no room", retry_after_s=1)

    with server.channel() as channel:
        live = Live(channel)
        live.ask(frame(0, boxed(1)))
        before = server.app.status().tracking
        with monkeypatch.context() as patch:
            patch.setattr(DevicePool, "make_room", fails)
            assert live.ask(frame(1, boxed(2, 1))).error.message == "no room"
        after = server.app.status().tracking
        assert (after.objects, after.memory_bytes) == (before.objects, before.memory_bytes)
        assert [each.object_id for each in live.ask(frame(2)).frame.objects] == [1]
        live.end()
