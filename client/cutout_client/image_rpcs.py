"""The RPCs about one picture: what is segmented in it, its overlay, its upload and its download."""

import io
from collections.abc import Sequence
from typing import Any

import PIL.Image
from cutout.v1 import image_service_pb2
from cutout_common import routing

from cutout_client import tasks
from cutout_client.images import ImageId, Picture, UploadedImage, image_id_of
from cutout_client.messages import build
from cutout_client.requests import digest_of, fill, fill_overlay, stream_request, upload_requests
from cutout_client.responses import read_segmentation, read_upload
from cutout_client.results import Segmentation
from cutout_client.rpcs import Rpc, Streamed, Subject, Unary
from cutout_client.streams import Assembly
from cutout_client.tasks import Task


def segment(picture: Picture, task: Task) -> Rpc[Segmentation]:
    """What the task asks for, in one message where the answer cannot outgrow one."""
    if tasks.may_outgrow_a_message(task):
        return stream(picture, task)
    return Unary(
        lambda stubs: getattr(stubs.segmentation, tasks.method(task)),
        lambda: task,
        lambda answer, request_id: read_segmentation(answer.segmentation, picture, request_id),
        subject=_subject(picture, task),
    )


def stream(picture: Picture, task: Task) -> Streamed[Segmentation, Assembly]:
    """What the task asks for, object by object."""
    return Streamed(
        lambda stubs: stubs.segmentation.StreamSegmentation,
        lambda: stream_request(task),
        lambda request_id: Assembly(picture, request_id),
        subject=_subject(picture, task),
    )


def overlay(picture: Picture, request: image_service_pb2.RenderOverlayRequest) -> Unary[PIL.Image.Image]:
    """The picture with its objects drawn on it."""
    return Unary(
        lambda stubs: stubs.images.RenderOverlay,
        lambda: request,
        lambda answer, _: PIL.Image.open(io.BytesIO(answer.data)),
        subject=Subject(picture, request, lambda current: fill_overlay(current, request)),
    )


def upload(picture: Picture) -> Unary[UploadedImage]:
    """Stores the picture's file, which is read here."""
    content = picture.file()
    digest = digest_of(content)
    return Unary(
        lambda stubs: stubs.images.UploadImage,
        lambda: upload_requests(content, digest),
        lambda answer, _: read_upload(answer, picture),
        place=routing.by_digest(digest),
    )


def download(image: UploadedImage | ImageId | str) -> Streamed[bytes, "_File"]:
    """The file that is stored."""
    request = build(image_service_pb2.GetImageRequest, image_id=image_id_of(image))
    place = routing.by_id(request.image_id)
    return Streamed(lambda stubs: stubs.images.GetImage, lambda: request, lambda _: _File(), place=place)


class _File:
    """Puts a file together."""

    def add(self, message: Any) -> bytes:
        piece: bytes = message.data
        return piece

    def result(self, pieces: Sequence[bytes]) -> bytes:
        return b"".join(pieces)


def _subject(picture: Picture, task: Task) -> Subject:
    return Subject(picture, task.image, lambda current: fill(current, task.image) or current)
