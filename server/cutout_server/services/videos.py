"""VideoService."""

from collections.abc import AsyncIterator
from typing import Any

import grpc
from cutout.v1 import video_service_pb2 as pb2
from cutout.v1 import video_service_pb2_grpc as pb2_grpc

from cutout_server.convert import videos as convert
from cutout_server.errors import InvalidRequestError
from cutout_server.images.videos import Videos

Context = grpc.aio.ServicerContext[Any, Any]


class VideoServicer(pb2_grpc.VideoServiceServicer):
    """Videos stored, described, forgotten. Each method is described in the contract."""

    def __init__(self, videos: Videos) -> None:
        self._videos = videos

    async def UploadVideo(
        self, request_iterator: AsyncIterator[pb2.UploadVideoRequest], context: Context
    ) -> pb2.UploadVideoResponse:
        first = await anext(aiter(request_iterator), None)
        if first is None:
            raise InvalidRequestError.of("chunk", "expected a video file, got no message")
        stored = await self._videos.receive(
            _chunks(first, request_iterator), field="chunk.data", expected_sha256=first.expected_sha256
        )
        return pb2.UploadVideoResponse(video=convert.video(stored))

    async def GetVideo(self, request: pb2.GetVideoRequest, context: Context) -> pb2.GetVideoResponse:
        return pb2.GetVideoResponse(video=convert.video(self._videos.find(request.video_id)))

    async def DeleteVideo(self, request: pb2.DeleteVideoRequest, context: Context) -> pb2.DeleteVideoResponse:
        self._videos.delete(request.video_id)
        return pb2.DeleteVideoResponse()


async def _chunks(first: pb2.UploadVideoRequest, rest: AsyncIterator[pb2.UploadVideoRequest]) -> AsyncIterator[bytes]:
    yield first.chunk.data
    async for message in rest:
        yield message.chunk.data
