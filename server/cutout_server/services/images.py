"""ImageService."""

from collections.abc import AsyncIterator
from typing import Any

import grpc
from cutout.v1 import image_service_pb2 as pb2
from cutout.v1 import image_service_pb2_grpc as pb2_grpc
from google.api import httpbody_pb2

from cutout_server import call_context
from cutout_server.convert import responses
from cutout_server.convert.checks import renamed
from cutout_server.convert.requests import OVERLAY_NAMES, RequestReader
from cutout_server.errors import InvalidRequestError
from cutout_server.images.uploads import Uploads
from cutout_server.pipelines.segment import SegmentPipeline

Context = grpc.aio.ServicerContext[Any, Any]


class ImageServicer(pb2_grpc.ImageServiceServicer):
    """Pictures stored, given back, drawn upon. Each method is described in the contract."""

    def __init__(self, uploads: Uploads, segmentation: SegmentPipeline, reader: RequestReader) -> None:
        self._uploads = uploads
        self._segmentation = segmentation
        self._reader = reader

    async def UploadImage(
        self, request_iterator: AsyncIterator[pb2.UploadImageRequest], context: Context
    ) -> pb2.UploadImageResponse:
        first = await anext(aiter(request_iterator), None)
        if first is None:
            raise InvalidRequestError.of("chunk", "expected a picture file, got no message")
        file = await self._uploads.receive(
            _chunks(first, request_iterator), field="chunk.data", expected_sha256=first.expected_sha256
        )
        return responses.upload(file)

    async def GetImage(self, request: pb2.GetImageRequest, context: Context) -> AsyncIterator[httpbody_pb2.HttpBody]:
        file = self._uploads.store.find(request.image_id, call_context.current().caller)
        async for chunk in self._uploads.store.chunks(file):
            yield httpbody_pb2.HttpBody(content_type=file.header.content_type, data=chunk)

    async def DeleteImage(self, request: pb2.DeleteImageRequest, context: Context) -> pb2.DeleteImageResponse:
        self._uploads.store.delete(request.image_id, call_context.current().caller)
        return pb2.DeleteImageResponse()

    async def RenderOverlay(self, request: pb2.RenderOverlayRequest, context: Context) -> httpbody_pb2.HttpBody:
        with renamed(OVERLAY_NAMES):
            async with self._segmentation.open(self._reader.overlay(request)) as run:
                async for _ in run.objects():
                    pass
                if request.mask_only:
                    return httpbody_pb2.HttpBody(content_type="image/png", data=(await run.silhouette()).data)
                overlay = await run.overlay()
                assert overlay is not None  # noqa: S101 - the reader asks for one
                return httpbody_pb2.HttpBody(content_type=overlay.content_type, data=overlay.data)


async def _chunks(first: pb2.UploadImageRequest, rest: AsyncIterator[pb2.UploadImageRequest]) -> AsyncIterator[bytes]:
    yield first.chunk.data
    async for message in rest:
        yield message.chunk.data
