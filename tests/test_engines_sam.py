"""SAM 1 and CLIP answer by every engine and precision as in fp32 by the official modules."""

from pathlib import Path

import numpy as np
import pytest
from clip_checkpoints import clip_folder, one_thread, siglip_folder  # noqa: F401 - fixtures
from cutout_server.models import clip, sam
from cutout_server.models.queries import DecodeQuery, MaskQuery
from cutout_server.models.runtime import EXACT, Engine, Precision, Runtime
from cutout_server.types import Box, ModelFiles, ObjectPrompt
from sam_checkpoints import sam_checkpoint  # noqa: F401 - fixture
from skimage import data

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]  # exporters use what newer PyTorch deprecates

RUNTIMES = [
    (Engine.EAGER, Precision.BF16),
    (Engine.OPENVINO, Precision.FP32),
    (Engine.OPENVINO, Precision.BF16),
    (Engine.ONNX, Precision.FP32),
]
PICTURES = [data.astronaut(), data.chelsea(), data.coffee(), data.rocket()]


def runtime_of(engine: Engine, precision: Precision, exports: Path) -> Runtime:
    for package in {Engine.OPENVINO: ["openvino"], Engine.ONNX: ["onnxruntime", "onnxscript"]}.get(engine, []):
        pytest.importorskip(package)
    return Runtime(engine, precision, exports)


def prompts_on(picture: np.ndarray) -> list[ObjectPrompt]:
    """A point and a box on each of nine places."""
    height, width = picture.shape[:2]
    places = [(width * x // 4, height * y // 4) for x in (1, 2, 3) for y in (1, 2, 3)]
    inside = np.ones(1, np.int32)
    points = [ObjectPrompt(points=np.array([place], np.float32), labels=inside) for place in places]
    boxes = [ObjectPrompt(box=Box(x - width // 5, y - height // 5, x + width // 5, y + height // 5)) for x, y in places]
    return points + boxes


def answers(model: sam.Sam) -> tuple[np.ndarray, list[np.ndarray]]:
    """All logits, and all masks at the pictures' sizes."""
    logits, masks = [], []
    for picture in PICTURES:
        (embedding,) = model.encode([picture])
        decoded = model.decode([DecodeQuery(embedding, prompt, multimask=False) for prompt in prompts_on(picture)])
        logits += [each.logits[0] for each in decoded]
        queries = [MaskQuery(embedding, each.logits[0], 0.0) for each in decoded]
        masks += [patch.whole() for patch in model.masks(queries)]
    return np.stack(logits), masks


@pytest.fixture(scope="module")
def exact(sam_checkpoint):  # noqa: F811
    return answers(sam.load(ModelFiles(sam_checkpoint), "cpu", EXACT))


@pytest.mark.parametrize(("engine", "precision"), RUNTIMES)
def test_masks_are_the_same_by_every_engine(sam_checkpoint, exact, tmp_path, engine, precision):  # noqa: F811
    """Mean IoU of 0.99 at least over photographs, points and boxes; in fp32 logits agree to 1e-4 of their spread."""
    runtime = runtime_of(engine, precision, tmp_path)
    logits, masks = answers(sam.load(ModelFiles(sam_checkpoint), "cpu", runtime))
    expected_logits, expected = exact
    ious = [(a & b).sum() / max(1, (a | b).sum()) for a, b in zip(masks, expected, strict=True) if (a | b).any()]
    assert len(ious) > len(masks) // 2  # else there would be little to compare
    assert np.mean(ious) >= 0.99, sorted(ious)[:8]
    if precision is Precision.FP32:
        assert np.abs(logits - expected_logits).max() <= 1e-4 * expected_logits.std()


@pytest.mark.parametrize("kind", ["clip_folder", "siglip_folder"])
@pytest.mark.parametrize(("engine", "precision"), RUNTIMES)
def test_pictures_are_embedded_alike_by_every_engine(request, kind, tmp_path, engine, precision):
    """The directions of pictures' features; texts are not touched."""
    files = ModelFiles(request.getfixturevalue(kind))
    model = clip.load(files, "cpu", runtime_of(engine, precision, tmp_path))
    expected = np.stack(clip.load(files, "cpu", EXACT).embed_pictures(PICTURES))
    features = np.stack(model.embed_pictures(PICTURES))
    assert features.dtype == np.float32
    cosines = (features * expected).sum(1)
    if precision is Precision.FP32:
        assert cosines.min() > 1 - 1e-6
    else:  # Random weights as narrow as these make much of rounding, in one picture or another.
        assert np.median(cosines) > 0.999
        assert cosines.min() > 0.97
    assert np.abs(expected[0] - expected[1]).max() > 1e-3
