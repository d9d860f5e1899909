"""The built-in model: prompts honoured, sane masks for any picture, words found, nothing shared between calls."""

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import pytest
import skimage.data
from asking import Ask, detect
from cutout_server.errors import FailedPreconditionError, InvalidRequestError
from cutout_server.models.builtin import load
from cutout_server.models.builtin.decode import decode
from cutout_server.models.builtin.embedding import embed
from cutout_server.models.builtin.model import Builtin
from cutout_server.models.builtin.network import WEIGHTS
from cutout_server.models.builtin.upscale import upscaled
from cutout_server.models.builtin.words import VOCABULARY
from cutout_server.models.protocols import Detector, Proposer, Segmenter
from cutout_server.models.queries import DecodeQuery, MaskQuery, ProposeQuery
from cutout_server.types import Box, ModelFiles, ObjectPrompt

TRUTH = Path(__file__).parent.parent / "benchmarks" / "ground_truth"
FACE = Box(176, 68, 272, 196)


@pytest.fixture(scope="module")
def model() -> Builtin:
    return load(ModelFiles(), "cpu")


def clicks(*points: tuple[float, float, int], box: Box | None = None, logits: np.ndarray | None = None) -> ObjectPrompt:
    return ObjectPrompt(
        points=np.array([point[:2] for point in points], np.float32).reshape(-1, 2),
        labels=np.array([point[2] for point in points], np.int32),
        box=box,
        logits=logits,
    )


def cut(model: Builtin, pixels: np.ndarray, prompt: ObjectPrompt, *, multimask: bool = False) -> list[np.ndarray]:
    """Full-size masks of one prompt's candidates."""
    (embedding,) = model.encode([pixels])
    (candidates,) = model.decode([DecodeQuery(embedding, prompt, multimask)])
    assert candidates.logits.dtype == candidates.predicted_iou.dtype == np.float32
    assert len(candidates.logits) == len(candidates.predicted_iou) == (3 if multimask else 1)
    assert ((candidates.predicted_iou >= 0) & (candidates.predicted_iou <= 1)).all()
    assert np.isfinite(candidates.logits).all()
    patches = model.masks([MaskQuery(embedding, logits, 0.0) for logits in candidates.logits])
    masks = [patch.whole() for patch in patches]
    assert all(mask.shape == pixels.shape[:2] and mask.dtype == bool for mask in masks)
    return masks


def iou(first: np.ndarray, second: np.ndarray) -> float:
    return float((first & second).sum() / max(1, (first | second).sum()))


def traced(photograph: str, name: str) -> tuple[np.ndarray, np.ndarray]:
    """A photograph and the mask of one of its objects, traced by hand."""
    pixels = getattr(skimage.data, photograph)()
    parts = json.loads((TRUTH / f"{photograph}.json").read_text())["objects"][name]
    mask = np.zeros(pixels.shape[:2], np.uint8)
    for part in parts:
        cv2.fillPoly(mask, [np.array(part, np.float32).round().astype(np.int32)], 1)
    return pixels, mask.astype(bool)


def around(mask: np.ndarray, margin: float) -> Box:
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    pad_x, pad_y = margin * np.ptp(columns), margin * np.ptp(rows)
    height, width = mask.shape
    left, top = max(columns[0] - pad_x, 0), max(rows[0] - pad_y, 0)
    return Box(left, top, min(columns[-1] + 1 + pad_x, width), min(rows[-1] + 1 + pad_y, height))


def naive(pixels: np.ndarray, box: Box) -> np.ndarray:
    """GrabCut with a rectangle on the full picture."""
    labels = np.zeros(pixels.shape[:2], np.uint8)
    x, y = int(box.x_min), int(box.y_min)
    rectangle = (x, y, int(box.x_max) - x, int(box.y_max) - y)
    cv2.setRNGSeed(0)
    cv2.grabCut(pixels[..., ::-1].copy(), labels, rectangle, None, None, 5, cv2.GC_INIT_WITH_RECT)
    return (labels & 1).astype(bool)


def test_it_is_all_three_kinds_of_model(model: Builtin):
    """It segments, proposes and detects, with weights that are small enough for the package."""
    assert isinstance(model, Segmenter)
    assert isinstance(model, Proposer)
    assert isinstance(model, Detector)
    assert WEIGHTS.stat().st_size < 6_000_000
    assert model.nbytes > WEIGHTS.stat().st_size


@pytest.mark.parametrize(("checkpoint", "config"), [(Path("x.pt"), None), (None, "large")])
def test_weights_are_refused(checkpoint: Path | None, config: str | None):
    """A checkpoint or a config that would be ignored is an error."""
    with pytest.raises(FailedPreconditionError, match="brings its weights"):
        load(ModelFiles(checkpoint, config), "cpu")


@pytest.mark.slow
def test_a_loose_box_beats_grabcut(model: Builtin):
    """With boxes a tenth too large on each side masks are near the truth, and on the mean no farther than GrabCut's."""
    ours, floor = [], []
    for photograph, name in (("coffee", "cup"), ("rocket", "rocket"), ("astronaut", "woman"), ("chelsea", "cat")):
        pixels, truth = traced(photograph, name)
        box = around(truth, 0.1)
        (mask,) = cut(model, pixels, ObjectPrompt(box=box))
        ours.append(iou(mask, truth))
        floor.append(iou(naive(pixels, box), truth))
    assert min(ours) > 0.6
    assert np.mean(ours) > np.mean(floor)


class Echo:
    """Answers with one of the maps that it is given, as if the network saw just that."""

    def __init__(self, channel: int) -> None:
        self.channel = channel

    def __call__(self, crops: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        seen = crops[:, self.channel]
        half = (seen[:, ::2, ::2] + seen[:, 1::2, ::2] + seen[:, ::2, 1::2] + seen[:, 1::2, 1::2]) / 4
        return np.repeat(8 * half[:, None], 3, 1), np.full((len(crops), 3), 0.5, np.float32)


PLACES = {
    "inside": ((300, 400), Box(100, 50, 220, 200)),
    "a corner": ((300, 400), Box(0, 0, 37, 61)),
    "the last pixels": ((301, 203), Box(160, 250, 203, 301)),
    "all": ((97, 211), Box(0, 0, 211, 97)),
    "slender": ((500, 700), Box(30, 240, 670, 262)),
    "small in a large picture": ((2600, 3900), Box(3000.4, 2000.7, 3150.2, 2120.1)),
}


@pytest.mark.parametrize("place", PLACES)
def test_prompts_and_masks_lie_where_the_picture_says(place: str):
    """Boxes go to the network's crop, and its masks come back, to within a cell of the logits."""
    (height, width), box = PLACES[place]
    embedding = embed(np.zeros((height, width, 3), np.uint8))
    truth = np.zeros((height, width), bool)
    truth[round(box.y_min) : round(box.y_max), round(box.x_min) : round(box.x_max)] = True
    candidates = decode(Echo(3), embedding, ObjectPrompt(box=box), False)
    mask = upscaled(candidates.logits[0], 0.0, (height, width)).whole()
    cell = 1.5 * max(box.x_max - box.x_min, box.y_max - box.y_min) / 64 + max(height, width) / 1024
    ring = np.ones((2 * int(cell) + 3,) * 2, np.uint8)
    eroded = cv2.erode(truth.view(np.uint8), ring, borderType=cv2.BORDER_CONSTANT, borderValue=0)
    near = cv2.dilate(truth.view(np.uint8), ring) - eroded
    assert not ((mask != truth) & (near == 0)).any()
    back = decode(Echo(6), embedding, ObjectPrompt(logits=candidates.logits[0]), False)
    again = upscaled(back.logits[0], 0.0, (height, width)).whole()
    assert not ((again != truth) & (near == 0)).any()


class Counted(Echo):
    """Counts crops by their size in pixels."""

    def __init__(self) -> None:
        super().__init__(4)
        self.seen: list[tuple[int, int]] = []

    def __call__(self, crops: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        self.seen.append((len(crops), crops.shape[-1]))
        return super().__call__(crops)


LOOKS = {
    "a box": (ObjectPrompt(box=Box(20, 30, 90, 80)), [(1, 128), (1, 160)]),
    "one click": (clicks((50, 50, 1)), [(3, 128), (1, 160), (1, 160)]),
    "several clicks": (clicks((50, 50, 1), (60, 55, 1), (90, 20, 0)), [(3, 160), (1, 160), (1, 160)]),
    "an earlier mask": (clicks((50, 50, 1), logits=np.ones((64, 64), np.float32)), [(1, 128), (1, 160)]),
}


@pytest.mark.parametrize("prompt", LOOKS)
def test_a_prompt_is_looked_at_as_often_as_it_needs(prompt: str):
    """What clicks alone mean is searched in three crops and looked at twice more; a box says where to look."""
    asked, expected = LOOKS[prompt]
    network = Counted()
    decode(network, embed(np.zeros((100, 120, 3), np.uint8)), asked, False)
    assert network.seen == expected


def test_what_several_clicks_span_tells_how_far_to_look():
    """Crops are 2, 4 and 8 times as wide as clicks inside are apart, or 1.2 pictures; clicks that meet tell nothing."""
    spans: list[list[int]] = []
    network = Echo(4)

    def watched(crops: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        spans.append([int(np.ptp(np.nonzero(crop[4] > 0.5)[1])) for crop in crops])
        return network(crops)

    for apart in (80, 4):
        prompt = clicks((200, 150, 1), (200 + apart, 150, 1), (20, 20, 0))
        decode(watched, embed(np.zeros((300, 400, 3), np.uint8)), prompt, False)
    searched = [sorted(each) for each in spans if len(each) == 3]
    assert np.allclose(searched, [(26, 40, 80), (1.6, 3.6, 8)], atol=7)


def test_clicks_refine_a_box(model: Builtin):
    """Clicks inside are in the mask, clicks outside are not, with a box or without."""
    pixels = skimage.data.astronaut()
    inside, outside = [(220, 110, 1), (215, 250, 1), (420, 470, 1)], [(300, 150, 0), (60, 440, 0)]
    for box in (Box(20, 5, 440, 512), None):
        (mask,) = cut(model, pixels, clicks(*inside, *outside, box=box))
        assert all(mask[y, x] == bool(label) for x, y, label in (*inside, *outside))


def test_only_clicks_outside_need_a_box(model: Builtin):
    """A box with clicks outside alone gives what is left of it."""
    pixels = skimage.data.coffee()
    (mask,) = cut(model, pixels, clicks((300, 280, 0), box=Box(165, 12, 430, 300)))
    assert mask.any()
    assert not mask[280, 300]


def test_contradictory_clicks_give_a_mask(model: Builtin):
    """In and out on one spot is no reason to fail."""
    (mask,) = cut(model, skimage.data.coffee(), clicks((300, 150, 1), (300, 150, 0), (310, 80, 1)))
    assert mask.any()


def test_one_click_offers_three_sizes(model: Builtin):
    """Without a box the candidates differ in size, and the likeliest comes first."""
    (embedding,) = model.encode([skimage.data.astronaut()])
    (found,) = model.decode([DecodeQuery(embedding, clicks((220, 110, 1)), True)])
    areas = {int((logits > 0).sum()) for logits in found.logits}
    assert len(areas) == 3
    assert found.predicted_iou[0] == found.predicted_iou.max()


def test_an_earlier_answer_is_a_prompt(model: Builtin):
    """Logits sent back alone give about the same mask; with clicks they are refined."""
    pixels, truth = traced("coffee", "cup")
    (embedding,) = model.encode([pixels])
    (first,) = model.decode([DecodeQuery(embedding, ObjectPrompt(box=around(truth, 0.05)), False)])
    prior = cv2.resize(first.logits[0], (256, 256), interpolation=cv2.INTER_AREA)
    before = model.masks([MaskQuery(embedding, first.logits[0], 0.0)])[0].whole()
    (alone,) = cut(model, pixels, clicks(logits=prior))
    assert iou(before, alone) > 0.75
    rows, columns = np.nonzero(before)
    spot = (int(columns[len(columns) // 2]), int(rows[len(rows) // 2]))
    (refined,) = cut(model, pixels, clicks((*spot, 0), logits=prior))
    assert not refined[spot[1], spot[0]]


EDGE_CASES = {
    "1 x 1": (np.full((1, 1, 3), 9, np.uint8), ObjectPrompt(box=Box(0, 0, 1, 1))),
    "one row": (skimage.data.chelsea()[100:101], ObjectPrompt(box=Box(10, 0, 200, 1))),
    "one column": (np.ascontiguousarray(skimage.data.chelsea()[:, 5:6]), clicks((0, 100, 1))),
    "uniform": (np.full((60, 80, 3), 128, np.uint8), ObjectPrompt(box=Box(10, 10, 40, 40))),
    "uniform, clicked": (np.full((60, 80, 3), 128, np.uint8), clicks((20, 20, 1))),
    "3 x 3 box": (skimage.data.coffee(), ObjectPrompt(box=Box(300, 150, 303, 153))),
    "hair's breadth": (skimage.data.coffee(), ObjectPrompt(box=Box(300.2, 150.2, 300.4, 150.3))),
    "whole picture": (skimage.data.coffee(), ObjectPrompt(box=Box(0, 0, 600, 400))),
    "last pixel": (skimage.data.coffee(), clicks((599.9, 399.9, 1))),
    "first pixel": (skimage.data.coffee(), clicks((0, 0, 1))),
    "noise": (np.random.default_rng(0).integers(0, 256, (90, 70, 3), np.uint8), clicks((30, 40, 1))),
}


@pytest.mark.parametrize("multimask", [False, True])
@pytest.mark.parametrize("name", EDGE_CASES)
def test_every_sane_prompt_has_a_mask(model: Builtin, name: str, multimask: bool):
    """The smallest pictures and boxes, flat ones and noise give a mask that is not empty."""
    pixels, prompt = EDGE_CASES[name]
    assert cut(model, pixels, prompt, multimask=multimask)[0].any()


def test_large_pictures_keep_their_size(model: Builtin):
    """A small object in a 24-megapixel picture is cut out at full resolution."""
    pixels = np.full((4000, 6000, 3), (70, 110, 60), np.uint8)
    cv2.circle(pixels, (5000, 3000), 90, (220, 60, 40), -1)
    truth = (pixels[..., 0] > 150).view(bool)
    noise = np.tile(np.random.default_rng(0).normal(0, 6, (1000, 1000)).astype(np.int16), (4, 6))
    pixels = np.clip(pixels + noise[..., None], 0, 255).astype(np.uint8)
    (mask,) = cut(model, pixels, ObjectPrompt(box=Box(4890, 2890, 5110, 3110)))
    assert iou(mask, truth) > 0.85


@pytest.mark.slow
def test_calls_do_not_disturb_each_other(model: Builtin):
    """The same prompts give the same answers alone, again, together, and from several threads."""
    photographs = [skimage.data.astronaut(), skimage.data.coffee(), skimage.data.chelsea()]
    embeddings = model.encode(photographs)
    prompts = [ObjectPrompt(box=Box(20, 20, 220, 240)), clicks((150, 150, 1)), clicks((200, 90, 1), (20, 20, 0))]
    queries = [DecodeQuery(embedding, prompt, True) for embedding in embeddings for prompt in prompts]
    alone = [model.decode([query])[0].logits for query in queries]
    cv2.setRNGSeed(123)
    together = [candidates.logits for candidates in model.decode(queries)]
    with ThreadPoolExecutor(3) as pool:
        threaded = list(pool.map(lambda query: model.decode([query])[0].logits, queries))
    for one, two, three in zip(alone, together, threaded, strict=True):
        assert np.array_equal(one, two)
        assert np.array_equal(one, three)


def test_everything_is_several_things(model: Builtin):
    """Proposals are a few dozen at most, neither specks nor the whole picture, with scores to choose by."""
    pixels = skimage.data.coffee()
    (embedding,) = model.encode([pixels])
    (found,) = model.propose([ProposeQuery(embedding, 32)])
    assert 3 <= len(found.logits) <= 100
    shares = (found.logits > 0).mean((1, 2))
    assert ((shares > 1e-4) & (shares < 0.95)).all()
    (coarse,) = model.propose([ProposeQuery(embedding, 4)])
    assert len(coarse.logits) <= len(found.logits)


def found_boxes(model: Builtin, pixels: np.ndarray, *phrases: str, threshold: float = 0.35) -> list[tuple[int, Box]]:
    (detections,) = detect(model, [Ask(pixels, phrases, threshold, 0.25)])
    assert all(threshold <= detection.score <= 1 for detection in detections)
    return [(detection.phrase_index, detection.box) for detection in detections]


def overlap(first: Box, second: Box) -> float:
    across = min(first.x_max, second.x_max) - max(first.x_min, second.x_min)
    down = min(first.y_max, second.y_max) - max(first.y_min, second.y_min)
    shared = max(across, 0) * max(down, 0)
    areas = [(box.x_max - box.x_min) * (box.y_max - box.y_min) for box in (first, second)]
    return shared / (sum(areas) - shared)


def test_a_face_and_its_person_are_found(model: Builtin):
    """The astronaut's face and body, each under its phrase."""
    found = dict(found_boxes(model, skimage.data.astronaut(), "person", "face"))
    assert overlap(found[1], FACE) > 0.4
    assert found[0].y_max > 400


def test_a_cat_is_found(model: Builtin):
    """The cat of scikit-image, by its face."""
    ((_, box),) = found_boxes(model, skimage.data.chelsea(), "cat")
    assert overlap(box, Box(60, 0, 400, 300)) > 0.5


def test_colours_are_found(model: Builtin):
    """A red and a blue patch, each under its word, where it is."""
    pixels = np.full((200, 300, 3), 235, np.uint8)
    pixels[20:80, 30:110] = (210, 30, 35)
    pixels[120:180, 180:280] = (30, 60, 200)
    found = dict(found_boxes(model, pixels, "blue", "red"))
    assert overlap(found[0], Box(180, 120, 280, 180)) > 0.8
    assert overlap(found[1], Box(30, 20, 110, 80)) > 0.8


def test_what_stands_out_is_found(model: Builtin):
    """A single thing on a plain ground is the object."""
    pixels = np.full((240, 320, 3), (90, 120, 90), np.uint8)
    cv2.ellipse(pixels, (200, 110), (60, 40), 20, 0, 360, (230, 180, 40), -1)
    (_, box), *_ = found_boxes(model, pixels, "object")
    assert overlap(box, Box(138, 60, 262, 160)) > 0.6


def test_nothing_found_is_no_error(model: Builtin):
    """A picture without a face has none."""
    assert found_boxes(model, skimage.data.coffee(), "face", "cat", "plate") == []


@pytest.mark.slow
def test_the_threshold_is_kept(model: Builtin):
    """A higher threshold never gives more."""
    pixels = skimage.data.astronaut()
    counts = [len(found_boxes(model, pixels, "face", "orange", threshold=t)) for t in (0.0, 0.35, 0.5, 0.99)]
    assert counts == sorted(counts, reverse=True)
    assert counts[0] > counts[-1]


@pytest.mark.parametrize("phrase", ["Faces", " a FACE. ", "the face", "human face", "heads"])
def test_words_are_understood_as_people_write_them(model: Builtin, phrase: str):
    """Case, spaces, articles, plurals and a full stop do not matter."""
    assert found_boxes(model, skimage.data.astronaut(), phrase)


def test_unknown_words_are_told_apart_and_answered_with_the_known_ones(model: Builtin):
    """Each unknown phrase is a violation of its own field, with every word that would be understood."""
    with pytest.raises(InvalidRequestError) as refused:
        detect(model, [Ask(skimage.data.coffee(), ("face", "submarine", "red car"), 0.35, 0.25)])
    violations = refused.value.violations
    assert [violation.field for violation in violations] == ["phrases[1]", "phrases[2]"]
    assert all(word in violations[0].description for word in VOCABULARY)
    assert "submarine" in violations[0].description
