"""Messages of streams, sessions, uploads and overlays."""

import hashlib
from collections.abc import Callable, Iterator, Sequence

from cutout.v1 import image_pb2, image_service_pb2, segmentation_service_pb2
from cutout_common import routing
from cutout_common.routing import Place

from cutout_client.images import INLINE_BYTES, FilePicture, Picture, RemotePicture, chunks
from cutout_client.messages import build, words
from cutout_client.prompts import Boxes, Point
from cutout_client.tasks import Task, rows


def stream_request(task: Task) -> segmentation_service_pb2.StreamSegmentationRequest:
    """The task, to be answered object by object."""
    request = segmentation_service_pb2.StreamSegmentationRequest()
    getattr(request, field_of(task)).CopyFrom(task)
    return request


def session_request(task: Task) -> segmentation_service_pb2.SegmentSessionRequest:
    """The task, as a prompt of a session."""
    request = segmentation_service_pb2.SegmentSessionRequest()
    getattr(request, field_of(task)).CopyFrom(task)
    return request


def session_opening(
    picture: Picture, segmenter: str
) -> tuple[Place, Callable[[], Iterator[segmentation_service_pb2.SegmentSessionRequest]]]:
    """Where a session should be, and its first messages, for each server that is tried.

    They are its opening, and the picture in pieces if it is too large to go along.
    """
    opening = build(segmentation_service_pb2.SessionOpen, segmenter=segmenter)
    place = fill(picture, opening.image)
    content = b"" if place else picture.file()

    def messages() -> Iterator[segmentation_service_pb2.SegmentSessionRequest]:
        yield segmentation_service_pb2.SegmentSessionRequest(open=opening)
        if content:
            *pieces, last = chunks(content)
            for piece in pieces:
                yield _image_chunk(piece, last=False)
            yield _image_chunk(last, last=True)

    return place or routing.by_content(content), messages


def fill(picture: Picture, message: image_pb2.Image) -> Place | None:
    """Puts a picture into a message and says where that should go; None when the picture is too large to go along."""
    if not picture.fill(message):
        return None
    match message.WhichOneof("source"):
        case "image_id":
            return routing.by_id(message.image_id)
        case "video_frame":
            return routing.by_id(message.video_frame.video_id)
        case "uri":
            return routing.by_content(message.uri.encode())
        case "tensor":
            return routing.by_content(message.tensor.data)
        case _:
            return routing.by_content(message.content)


def digest_of(content: bytes) -> str:
    """Hexadecimal SHA-256 of a file."""
    return hashlib.sha256(content).hexdigest()


def upload_requests(content: bytes, digest: str) -> Iterator[image_service_pb2.UploadImageRequest]:
    """A file in pieces, the first of them with the digest of the whole."""
    for piece in chunks(content):
        request = image_service_pb2.UploadImageRequest(expected_sha256=digest)
        request.chunk.data = piece
        yield request
        digest = ""


def overlay_request(
    picture: Picture,
    *,
    phrases: str | Sequence[str] | None,
    boxes: Boxes | None,
    points: Sequence[Point] | None,
    detector: str,
    segmenter: str,
    mask_only: bool,
) -> image_service_pb2.RenderOverlayRequest:
    """A picture to be drawn upon, without the picture: see `fill_overlay`.

    Raises:
        ValueError: The picture is an address, which this RPC does not take.
    """
    if isinstance(picture, RemotePicture) and picture.uri:
        raise ValueError("overlay() takes no address; use segment_...(address, ..., overlay='png').overlay()")
    if isinstance(picture, RemotePicture) and picture.video_id:
        raise ValueError("overlay() takes no frame of a video; use segment_...(frame, ..., overlay='png').overlay()")
    return build(
        image_service_pb2.RenderOverlayRequest,
        phrases=None if phrases is None else words("phrases", phrases),
        boxes=[number for box in rows(boxes, (4,), "boxes are x_min, y_min, x_max, y_max") for number in box],
        points=[number for point in rows(points, (2,), "points are x, y") for number in point],
        segmenter=segmenter,
        detector=detector,
        mask_only=mask_only,
    )


def fill_overlay(picture: Picture, request: image_service_pb2.RenderOverlayRequest) -> Place | Picture:
    """Puts a picture into the request; gives where that should go, or its file when that is too large to go along."""
    if isinstance(picture, RemotePicture):
        request.image_id = picture.image_id
        return routing.by_id(request.image_id)
    content = picture.file()
    if len(content) > INLINE_BYTES:
        return FilePicture(content)
    request.picture.data = content
    return routing.by_content(content)


def field_of(task: Task) -> str:
    """Where requests of streams and sessions hold it: SegmentByTextRequest is `text`, AnalyzeImageRequest `analyze`."""
    name = task.DESCRIPTOR.name.removeprefix("Segment").removeprefix("By").removesuffix("Request")
    return name.removesuffix("Image").lower()


def _image_chunk(data: bytes, *, last: bool) -> segmentation_service_pb2.SegmentSessionRequest:
    chunk = segmentation_service_pb2.ImageChunk(data=data, last=last)
    return segmentation_service_pb2.SegmentSessionRequest(image_chunk=chunk)
