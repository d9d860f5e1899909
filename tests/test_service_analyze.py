"""AnalyzeImage behind the real stack: masks of the built-in model, concepts as CLIPModel itself scores them."""

from collections.abc import Iterator
from pathlib import Path

import grpc
import numpy as np
import pytest
import torch
from clip_checkpoints import clip_folder  # noqa: F401 - a fixture
from conftest import Photo, RunningServer, Stubs, run_server
from cutout.v1 import image_pb2, mask_pb2, segmentation_pb2
from cutout.v1 import segmentation_service_pb2 as pb2
from cutout_common.status import unpack
from grpc_status import rpc_status
from pycocotools import mask as coco
from transformers import CLIPModel, CLIPProcessor

CONCEPTS = ["cat", "rocket", "cup of coffee", "astronaut"]


@pytest.fixture(scope="module")
def classifying(clip_folder: Path) -> Iterator[RunningServer]:  # noqa: F811
    """A server with the built-in model and a small CLIP."""
    clip = {"name": "clip", "family": "clip", "checkpoint": str(clip_folder)}
    with run_server(models=[{"name": "builtin", "family": "builtin"}, clip]) as server:
        yield server


@pytest.fixture(scope="module")
def analyzing(classifying: RunningServer) -> Iterator[Stubs]:
    """Stubs over it."""
    with classifying.channel() as channel:
        yield Stubs.over(channel)


@pytest.fixture(scope="module")
def reference(clip_folder: Path) -> tuple[CLIPModel, CLIPProcessor]:  # noqa: F811
    """The official one."""
    return CLIPModel.from_pretrained(clip_folder).eval(), CLIPProcessor.from_pretrained(clip_folder)


def image_of(photo: Photo) -> image_pb2.Image:
    height, width, _ = photo.pixels.shape
    tensor = image_pb2.RawTensor(height=height, width=width, channels=3, data=photo.pixels.tobytes())
    return image_pb2.Image(tensor=tensor)


def expected(reference: tuple[CLIPModel, CLIPProcessor], pixels: np.ndarray, texts: list[str]) -> np.ndarray:
    """Softmax of logits_per_image, in the order of the texts."""
    model, processor = reference
    inputs = processor(text=texts, images=[np.array(pixels)], return_tensors="pt", padding=True)
    with torch.inference_mode():
        return model(**inputs).logits_per_image.softmax(-1)[0].numpy()


def scores_of(concepts: segmentation_pb2.Concepts, texts: list[str]) -> np.ndarray:
    """In the order of the request, after a look at the order of the answer."""
    scores = np.zeros(len(texts))
    for each in concepts.scores:
        assert each.concept == texts[each.concept_index]
        scores[each.concept_index] = each.score
    in_order = [each.score for each in concepts.scores]
    assert in_order == sorted(in_order, reverse=True)
    assert len(in_order) == len(texts)
    return scores


def check(answer: segmentation_pb2.Segmentation, photo: Photo, reference, template: str = "a photo of a {}") -> None:
    """Every score is the reference's, of the whole picture and of each object's crop."""
    texts = [template.replace("{}", concept) for concept in CONCEPTS]
    whole = scores_of(answer.concepts, CONCEPTS)
    assert whole.sum() == pytest.approx(1, abs=1e-5)
    np.testing.assert_allclose(whole, expected(reference, photo.pixels, texts), atol=1e-4)
    for found in answer.objects:
        box = found.box
        crop = photo.pixels[int(box.y_min) : int(box.y_max), int(box.x_min) : int(box.x_max)]
        scores = scores_of(found.concepts, CONCEPTS)
        np.testing.assert_allclose(scores, expected(reference, crop, texts), atol=1e-4)


def test_regions_are_cut_out_and_described(analyzing: Stubs, photos: dict[str, Photo], reference):
    """A box and a point each give a mask, its polygon, and the concepts of its crop."""
    photo = photos["chelsea"]
    regions = [
        pb2.Region(box=mask_pb2.Box(x_min=60, y_min=20, x_max=400, y_max=290)),
        pb2.Region(point=mask_pb2.Point(x=150, y=120)),
    ]
    request = pb2.AnalyzeImageRequest(image=image_of(photo), concepts=CONCEPTS, regions=regions)
    answer = analyzing.segmentation.AnalyzeImage(request).segmentation
    assert [found.prompt_index for found in answer.objects] == [0, 1]
    for found in answer.objects:
        rle, polygons = (getattr(mask, mask.WhichOneof("encoding")) for mask in found.masks)
        assert coco.area({"size": list(rle.size), "counts": rle.counts}) == found.area
        assert polygons.polygons
    check(answer, photo, reference)
    assert list(answer.models) == ["builtin", "clip"]
    assert answer.timings.classify_ms > 0


def test_concepts_that_read_alike(analyzing: Stubs, photos: dict[str, Photo]):
    """They count once, share the score that the first has without the others, and say so."""
    photo = photos["chelsea"]
    region = pb2.Region(box=mask_pb2.Box(x_min=60, y_min=20, x_max=400, y_max=290))
    concepts = ["cat", "rocket", "Cat", "CAT."]
    plain, alike = (
        analyzing.segmentation.AnalyzeImage(
            pb2.AnalyzeImageRequest(image=image_of(photo), concepts=each, regions=[region])
        ).segmentation
        for each in (concepts[:2], concepts)
    )
    for one, several in ((plain, alike), (plain.objects[0], alike.objects[0])):
        cat, rocket = scores_of(one.concepts, concepts[:2])
        np.testing.assert_allclose(scores_of(several.concepts, concepts), [cat, rocket, cat, cat], atol=1e-6)
        same = {s.concept_index: s.same_as for s in several.concepts.scores if s.HasField("same_as")}
        assert same == {2: 0, 3: 0}


@pytest.mark.slow
def test_without_regions_everything_is_described(analyzing: Stubs, photos: dict[str, Photo], reference):
    """The masks are those of SegmentEverything."""
    photo = photos["coffee"]
    request = pb2.AnalyzeImageRequest(image=image_of(photo), concepts=CONCEPTS, template="{}")
    answer = analyzing.segmentation.AnalyzeImage(request).segmentation
    everything = pb2.SegmentEverythingRequest(image=image_of(photo))
    objects = analyzing.segmentation.SegmentEverything(everything).segmentation.objects
    assert len(objects) > 3
    assert [found.area for found in answer.objects] == [found.area for found in objects]
    check(answer, photo, reference, template="{}")


def test_in_a_stream_and_in_a_session(analyzing: Stubs, photos: dict[str, Photo]):
    """Both answer what the method answers; the stream's header names the whole picture's concepts."""
    box = mask_pb2.Box(x_min=60, y_min=20, x_max=400, y_max=290)
    request = pb2.AnalyzeImageRequest(concepts=CONCEPTS, regions=[pb2.Region(box=box)])
    image = image_of(photos["chelsea"])

    def session() -> Iterator[pb2.SegmentSessionRequest]:
        yield pb2.SegmentSessionRequest(open=pb2.SessionOpen(image=image))
        yield pb2.SegmentSessionRequest(analyze=request)

    _, in_session = analyzing.segmentation.SegmentSession(session())
    whole = pb2.AnalyzeImageRequest()
    whole.CopyFrom(request)
    whole.image.CopyFrom(image)
    answer = analyzing.segmentation.AnalyzeImage(whole).segmentation
    header, found, summary = analyzing.segmentation.StreamSegmentation(pb2.StreamSegmentationRequest(analyze=whole))
    assert in_session.segmentation.concepts == answer.concepts == header.header.concepts
    assert in_session.segmentation.objects[0] == answer.objects[0] == found.object
    assert summary.summary.models == answer.models


def test_the_features_of_texts_are_kept(classifying: RunningServer, analyzing: Stubs, photos: dict[str, Photo]):
    """The second request about the same concepts does not ask the text model again."""
    image = image_of(photos["rocket"])
    region = pb2.Region(point=mask_pb2.Point(x=300, y=200))

    def jobs(concepts: list[str]) -> int:
        before = classifying.app.status().devices[0].jobs
        request = pb2.AnalyzeImageRequest(image=image, concepts=concepts, regions=[region])
        analyzing.segmentation.AnalyzeImage(request)
        return classifying.app.status().devices[0].jobs - before

    warm_up, first, again, one_more = (jobs(words) for words in (["x", "y"], ["z", "q"], ["z", "q"], ["z", "new"]))
    assert warm_up > first  # The picture was encoded for masks only then.
    assert (again, one_more) == (first - 2, first - 1)


@pytest.mark.parametrize(
    ("changes", "fields"),
    [
        ({"concepts": []}, ["concepts"]),
        ({"concepts": ["cat", " "]}, ["concepts[1]"]),
        ({"concepts": ["cat", "cat"]}, ["concepts"]),
        ({"template": "a photo"}, ["template"]),
        ({"regions": [pb2.Region()]}, ["regions[0]"]),
        ({"regions": [pb2.Region(point=mask_pb2.Point(x=3, y=3, label=0))]}, ["regions[0].point.label"]),
        ({"regions": [pb2.Region(point=mask_pb2.Point(x=3000, y=3))]}, ["regions[0].point"]),
        ({"regions": [pb2.Region(box=mask_pb2.Box(x_min=9000, x_max=9001, y_max=1))]}, ["regions[0].box"]),
        ({"concepts": ["zq" * 100, "dog"], "template": "{}"}, ["concepts"]),
        ({"classifier": "builtin"}, ["classifier"]),
    ],
)
def test_what_cannot_be_is_named(analyzing: Stubs, photos: dict[str, Photo], changes: dict, fields: list[str]):
    """Each violated field is named."""
    request = pb2.AnalyzeImageRequest(**{"image": image_of(photos["rocket"]), "concepts": CONCEPTS} | changes)
    with pytest.raises(grpc.RpcError) as caught:
        analyzing.segmentation.AnalyzeImage(request)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    details = unpack(rpc_status.from_call(caught.value))
    assert [violation.field for violation in details.violations] == fields
