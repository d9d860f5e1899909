"""SAM 1 behind the real stack: what callers get and send back is what the official predictor gives and takes."""

# ruff: noqa: F811 - fixtures are imported

import numpy as np
import pytest
from cutout.v1 import image_pb2, mask_pb2
from cutout.v1 import segmentation_service_pb2 as pb2
from everything_fixtures import Everything, everything, sam_checkpoint  # noqa: F401
from sam_checkpoints import official_predictor
from skimage import data
from test_everything_official import mask_of

pytestmark = pytest.mark.slow


def test_logits_go_out_and_come_back_unclamped(everything: Everything):
    """The predictor of SAM 1 clamps none, and its next mask depends on it."""
    pixels = data.chelsea()
    height, width, _ = pixels.shape
    tensor = image_pb2.RawTensor(height=height, width=width, channels=3, data=pixels.tobytes())
    predictor = official_predictor(everything.official["sam"], pixels)
    points, labels = np.array([[220, 110], [40, 280]], np.float32), np.array([1, 0])

    def ask(prompt: pb2.ObjectPrompt, **options: bool):
        request = pb2.SegmentByPointsRequest(
            image=image_pb2.Image(tensor=tensor), segmenter="sam", prompts=[prompt], options=options
        )
        return everything.stubs.segmentation.SegmentByPoints(request).segmentation.objects

    prompt = pb2.ObjectPrompt(
        points=[mask_pb2.Point(x=x, y=y, label=label) for (x, y), label in zip(points, labels, strict=True)],
        box=mask_pb2.Box(x_min=60, y_min=20, x_max=400, y_max=290),
    )
    found = ask(prompt, multimask=True, return_logits=True)
    masks, scores, logits = predictor.predict(points, labels, box=np.array([60, 20, 400, 290]))
    order = np.argsort(-scores, kind="stable")
    for each, index in zip(found, order, strict=True):
        assert np.count_nonzero(mask_of(each) != masks[index]) <= 3
        assert abs(each.predicted_iou - scores[index]) < 1e-4
        sent = np.frombuffer(each.logits.data, "<f4").reshape(256, 256)
        np.testing.assert_allclose(sent, logits[index], rtol=1e-5, atol=1e-4)
    steepest = int(np.argmax(np.abs(logits).max((1, 2))[order]))
    assert np.abs(logits[order[steepest]]).max() > 40

    again = pb2.ObjectPrompt(logits=found[steepest].logits, points=prompt.points[:1])
    (refined,) = ask(again, return_logits=True)
    earlier = logits[order[steepest]][None]
    arguments = {"point_coords": points[:1], "point_labels": labels[:1], "multimask_output": False}
    masks, scores, expected = predictor.predict(**arguments, mask_input=earlier)
    assert np.count_nonzero(mask_of(refined) != masks[0]) <= 3
    assert abs(refined.predicted_iou - scores[0]) < 1e-4
    sent = np.frombuffer(refined.logits.data, "<f4").reshape(256, 256)
    np.testing.assert_allclose(sent, expected[0], rtol=1e-5, atol=1e-3)
    clamped = predictor.predict(**arguments, mask_input=earlier.clip(-32, 32))[2]
    assert np.abs(clamped - expected).max() > 0.01
