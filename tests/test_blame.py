"""A picture that cannot be read is blamed on the field that the caller filled, wherever a picture goes in."""

import io
from collections.abc import Callable, Iterator

import grpc
import httpx
import numpy as np
import pytest
import skimage.data
from conftest import Stubs
from cutout.v1 import image_pb2, image_service_pb2, mask_pb2
from cutout.v1 import segmentation_service_pb2 as pb2
from cutout_common.status import unpack
from grpc_status import rpc_status
from PIL import Image
from waiting import PATIENCE_S

BOX = mask_pb2.Box(x_max=9, y_max=9)


def encode(file_format: str) -> bytes:
    file = io.BytesIO()
    Image.fromarray(skimage.data.astronaut()).save(file, file_format)
    return file.getvalue()


WHOLE = encode("PNG")
DAMAGED = {name: (content := encode(name))[: len(content) // 2] for name in ("PNG", "JPEG", "TIFF")}
HALVES = list(DAMAGED.values())
UNREADABLE = b"\x89PNG\r\n\x1a\n" + bytes(100)
NAN = np.full(12, np.nan, "<f4").tobytes()
TENSOR = image_pb2.RawTensor(height=2, width=2, channels=3, dtype=image_pb2.RawTensor.DATA_TYPE_FLOAT32, data=NAN)


def blamed(call: Callable[[], object]) -> str:
    """The one field that a refusal names."""
    with pytest.raises(grpc.RpcError) as refused:
        _drain(call())
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    (violation,) = unpack(rpc_status.from_call(refused.value)).violations
    assert violation.field in refused.value.details()
    return violation.field


def _drain(answer: object) -> None:
    if isinstance(answer, Iterator):
        list(answer)


def upload(stubs: Stubs, content: bytes) -> str:
    chunk = {"data": content}
    return stubs.images.UploadImage(iter([image_service_pb2.UploadImageRequest(chunk=chunk)])).image_id


def box(image: image_pb2.Image) -> pb2.SegmentByBoxRequest:
    return pb2.SegmentByBoxRequest(image=image, boxes=[BOX])


@pytest.mark.parametrize("half", HALVES, ids=DAMAGED)
def test_calls_blame_their_own_field(stubs: Stubs, half: bytes) -> None:
    """A file in a message, and one that was uploaded, in unary calls and inside of streams."""
    inline, stored = image_pb2.Image(content=half), image_pb2.Image(image_id=upload(stubs, half))
    segmentation = stubs.segmentation
    assert blamed(lambda: segmentation.SegmentByBox(box(inline))) == "image.content"
    assert blamed(lambda: segmentation.SegmentByBox(box(stored))) == "image.image_id"
    for image, field in ((inline, "content"), (stored, "image_id")):
        streamed = pb2.StreamSegmentationRequest(box=box(image))
        assert blamed(lambda asked=streamed: segmentation.StreamSegmentation(asked)) == f"box.image.{field}"
    assert blamed(lambda: segmentation.SegmentByBox(box(image_pb2.Image(tensor=TENSOR)))) == "image.tensor.data"


@pytest.mark.parametrize("half", HALVES, ids=DAMAGED)
@pytest.mark.parametrize("size", [1 << 30, 50_000, 10_000])
def test_sessions_blame_the_chunks_that_came(stubs: Stubs, half: bytes, size: int) -> None:
    """Not a stored picture of which the caller knows nothing; however the file was cut, and wherever it is damaged."""
    for content in (half, UNREADABLE):
        parts = [content[at : at + size] for at in range(0, len(content), size)]
        chunks = [{"data": part, "last": index == len(parts) - 1} for index, part in enumerate(parts)]
        messages = [pb2.SegmentSessionRequest(open={}), *(pb2.SegmentSessionRequest(image_chunk=c) for c in chunks)]
        assert blamed(lambda sent=messages: stubs.segmentation.SegmentSession(iter(sent))) == "image_chunk.data"


def test_sessions_blame_what_opens_them(stubs: Stubs) -> None:
    """Every other source is a field of the opening message."""
    half = DAMAGED["PNG"]
    sources = {
        "content": image_pb2.Image(content=half),
        "image_id": image_pb2.Image(image_id=upload(stubs, half)),
        "tensor.data": image_pb2.Image(tensor=TENSOR),
    }
    for field, image in sources.items():
        opening = pb2.SegmentSessionRequest(open=pb2.SessionOpen(image=image))
        assert blamed(lambda sent=opening: stubs.segmentation.SegmentSession(iter([sent]))) == f"open.image.{field}"
    wrong = pb2.SegmentSessionRequest(open={"segmenter": "sam9"})
    chunk = pb2.SegmentSessionRequest(image_chunk={"data": WHOLE, "last": True})
    assert blamed(lambda: stubs.segmentation.SegmentSession(iter([wrong, chunk]))) == "open.segmenter"


def test_uploads_blame_their_chunks(stubs: Stubs) -> None:
    """What is no picture by its header is not stored."""
    assert blamed(lambda: upload(stubs, UNREADABLE)) == "chunk.data"


def test_overlays_blame_the_fields_that_they_have(stubs: Stubs) -> None:
    """RenderOverlay says the same as other requests in fewer words: its refusals, too."""
    half = DAMAGED["JPEG"]
    render, request = stubs.images.RenderOverlay, image_service_pb2.RenderOverlayRequest
    assert blamed(lambda: render(request(picture={"data": half}, boxes=[0, 0, 9, 9]))) == "picture.data"
    assert blamed(lambda: render(request(image_id=upload(stubs, half), phrases=["cat"]))) == "image_id"
    outside = request(picture={"data": WHOLE}, points=[5, 5, 5, 5000])
    assert blamed(lambda: render(outside)) == "points[1]"


def test_forms_and_bodies_blame_their_parts(gateway_url: str) -> None:
    """Over REST as over gRPC."""
    half = DAMAGED["PNG"]
    part = ("a.png", half, "image/png")

    def field(path: str, **sent: object) -> str:
        answer = httpx.post(f"{gateway_url}{path}", timeout=PATIENCE_S, **sent)  # type: ignore[arg-type]
        assert answer.status_code == 400
        (bad,) = (detail for detail in answer.json()["details"] if detail["@type"].endswith("BadRequest"))
        (violation,) = bad["fieldViolations"]
        return str(violation["field"])

    assert field("/v1/segment:everything", files={"image.content": part}) == "image.content"
    assert field("/v1/segment:stream", files={"everything.image.content": part}) == "everything.image.content"
    assert field("/v1/overlay", params={"boxes": [0, 0, 9, 9]}, content=half) == "picture.data"
    assert field("/v1/overlay", files={"picture": part}) == "picture.data"
    assert field("/v1/images", content=UNREADABLE) == "chunk.data"
    assert field("/v1/images", files={"chunk": ("a.png", UNREADABLE, "image/png")}) == "chunk.data"
