"""SegmentationService."""

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from typing import Any

import grpc
from cutout.v1 import segmentation_pb2
from cutout.v1 import segmentation_service_pb2 as pb2
from cutout.v1 import segmentation_service_pb2_grpc as pb2_grpc

from cutout_server.convert.checks import within
from cutout_server.convert.requests import RequestReader, read_chunk_bytes
from cutout_server.pipelines.segment import SegmentPipeline
from cutout_server.services import answers
from cutout_server.services.session import Sessions
from cutout_server.types import SegmentRequest

Context = grpc.aio.ServicerContext[Any, Any]


class SegmentationServicer(pb2_grpc.SegmentationServiceServicer):
    """Pictures and prompts in, masks out. Each method is described in the contract."""

    def __init__(
        self,
        segmentation: SegmentPipeline,
        reader: RequestReader,
        sessions: Sessions,
        cache: answers.SegmentationCache,
        *,
        max_message_bytes: int,
    ) -> None:
        self._segmentation = segmentation
        self._cache = cache
        self._reader = reader
        self._sessions = sessions
        self._max_message_bytes = max_message_bytes

    async def SegmentByText(self, request: pb2.SegmentByTextRequest, context: Context) -> pb2.SegmentByTextResponse:
        answer = await self._whole(self._reader.text(request))
        return pb2.SegmentByTextResponse(segmentation=answer)

    async def SegmentByBox(self, request: pb2.SegmentByBoxRequest, context: Context) -> pb2.SegmentByBoxResponse:
        answer = await self._whole(self._reader.box(request))
        return pb2.SegmentByBoxResponse(segmentation=answer)

    async def SegmentByPoints(
        self, request: pb2.SegmentByPointsRequest, context: Context
    ) -> pb2.SegmentByPointsResponse:
        answer = await self._whole(self._reader.points(request))
        return pb2.SegmentByPointsResponse(segmentation=answer)

    async def SegmentEverything(
        self, request: pb2.SegmentEverythingRequest, context: Context
    ) -> pb2.SegmentEverythingResponse:
        answer = await self._whole(self._reader.everything(request))
        return pb2.SegmentEverythingResponse(segmentation=answer)

    async def AnalyzeImage(self, request: pb2.AnalyzeImageRequest, context: Context) -> pb2.AnalyzeImageResponse:
        answer = await self._whole(self._reader.analyze(request))
        return pb2.AnalyzeImageResponse(segmentation=answer)

    async def _whole(self, request: SegmentRequest) -> segmentation_pb2.Segmentation:
        return await answers.whole_or_cached(
            self._segmentation, request, answers.Room(self._max_message_bytes), self._cache
        )

    async def StreamSegmentation(
        self, request: pb2.StreamSegmentationRequest, context: Context
    ) -> AsyncGenerator[pb2.StreamSegmentationResponse]:
        chunk_bytes = read_chunk_bytes(request)
        with within(request.WhichOneof("request")):
            decoded = self._reader.one_of(request, "request")
            async with aclosing(answers.stream(self._segmentation, decoded, chunk_bytes)) as messages:
                async for message in messages:
                    yield message

    async def SegmentSession(
        self, request_iterator: AsyncIterator[pb2.SegmentSessionRequest], context: Context
    ) -> AsyncGenerator[pb2.SegmentSessionResponse]:
        async with aclosing(self._sessions.serve(request_iterator)) as messages:
            async for message in messages:
                yield message
