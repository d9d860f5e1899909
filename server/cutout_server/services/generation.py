"""GenerationService."""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

import grpc
from cutout.v1 import generation_service_pb2 as pb2
from cutout.v1 import generation_service_pb2_grpc as pb2_grpc

from cutout_server.convert.checks import within
from cutout_server.convert.generation import read_request
from cutout_server.convert.requests import RequestReader
from cutout_server.pipelines.generate import GeneratePipeline
from cutout_server.pipelines.segment import SegmentPipeline
from cutout_server.services import pictures
from cutout_server.services.answers import Room

Context = grpc.aio.ServicerContext[Any, Any]


class GenerationServicer(pb2_grpc.GenerationServiceServicer):
    """Words in, pictures out. Each method is described in the contract."""

    def __init__(
        self,
        generation: GeneratePipeline,
        segmentation: SegmentPipeline,
        reader: RequestReader,
        *,
        max_message_bytes: int,
    ) -> None:
        self._generation = generation
        self._segmentation = segmentation
        self._reader = reader
        self._max_message_bytes = max_message_bytes

    async def GenerateImage(self, request: pb2.GenerateImageRequest, context: Context) -> pb2.GenerateImageResponse:
        decoded = read_request(request, self._reader, in_one_message=True)
        return await pictures.whole(self._generation, self._segmentation, decoded, Room(self._max_message_bytes))

    async def StreamGeneration(
        self, request: pb2.StreamGenerationRequest, context: Context
    ) -> AsyncGenerator[pb2.StreamGenerationResponse]:
        with within("request"):
            decoded = read_request(request.request, self._reader, in_one_message=False)
            stream = pictures.stream(self._generation, self._segmentation, decoded)
            async with aclosing(stream) as messages:
                async for message in messages:
                    yield message
