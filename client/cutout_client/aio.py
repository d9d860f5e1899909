"""The client for asyncio programs."""

import asyncio
import io
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import partial
from os import PathLike
from typing import Any, Self, TypeVar, Unpack

import grpc
import PIL.Image
from cutout.v1 import generation_service_pb2, image_pb2, image_service_pb2, model_service_pb2, video_service_pb2
from cutout_common import routing
from google.protobuf.wrappers_pb2 import StringValue

from cutout_client import tasks
from cutout_client.connection import DEFAULT_ADDRESS, Connection, ConnectionOptions
from cutout_client.errors import NotFoundError
from cutout_client.generation import AsyncGenerationStream, Generation, PictureAssembly, generation_request
from cutout_client.images import INLINE_BYTES, ImageId, ImageLike, Picture, UploadedImage, image_id_of, read_picture
from cutout_client.keywords import lists_arguments
from cutout_client.link import AsyncLink
from cutout_client.live import AsyncLiveStream
from cutout_client.loops import Lines
from cutout_client.moved import Moved
from cutout_client.prompts import (
    Boxes,
    EverythingOptions,
    GenerateOptions,
    Options,
    Point,
    Prompts,
    Regions,
    StreamOptions,
    TextOptions,
)
from cutout_client.requests import digest_of, fill, overlay_place, overlay_request, stream_request, upload_requests
from cutout_client.responses import (
    read_health,
    read_model,
    read_segmentation,
    read_status,
    read_upload,
)
from cutout_client.results import Segmentation
from cutout_client.retrying import begun_async, flow_async, retried_async
from cutout_client.sessions import AsyncSession
from cutout_client.status import Model, ServerStatus
from cutout_client.stored import (
    AsyncVideoTrackStream,
    Direction,
    Following,
    StoredVideo,
    VideoLike,
    VideoUpload,
    read_video,
    track_request,
    video_id_of,
)
from cutout_client.streams import Assembly, AsyncObjectStream, whole_async
from cutout_client.tracked import Frame, TrackOptions, TrackPrompt, first_prompts
from cutout_client.tracked import opening as tracking_opening
from cutout_client.transport import LOAD_TIMEOUT_S, Call, Stubs
from cutout_client.video import frames_of

T = TypeVar("T")


@lists_arguments
class AsyncClient:
    """A connection to a Cutout server; close it, or use it in `async with`.

    Its methods, arguments, results and errors are those of `Client`. It may be made anywhere, and is used inside of a
    running event loop; each loop on which it is used gets a connection, and `max_in_flight` calls, of its own.
    """

    def __init__(self, address: str = DEFAULT_ADDRESS, **how: Unpack[ConnectionOptions]) -> None:
        self._connection = Connection(address, **how)
        self._lines = Lines(partial(AsyncLink, self._connection, grpc.aio), self._connection.max_in_flight)
        self._moved = Moved()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """As `Client.close`."""
        await self._lines.close()

    async def segment_text(
        self,
        image: ImageLike,
        phrases: str | Sequence[str],
        *,
        detector: str = "",
        segmenter: str = "",
        timeout_s: float | None = None,
        request_id: str = "",
        **options: Unpack[TextOptions],
    ) -> Segmentation:
        """As `Client.segment_text`."""
        task = tasks.text_task(phrases, detector=detector, segmenter=segmenter, options=options)
        return await self._segment(image, task, timeout_s, request_id)

    async def segment_box(
        self,
        image: ImageLike,
        boxes: Boxes,
        *,
        segmenter: str = "",
        timeout_s: float | None = None,
        request_id: str = "",
        **options: Unpack[Options],
    ) -> Segmentation:
        """As `Client.segment_box`."""
        return await self._segment(image, tasks.box_task(boxes, segmenter, options), timeout_s, request_id)

    async def segment_points(
        self,
        image: ImageLike,
        prompts: Prompts,
        *,
        segmenter: str = "",
        timeout_s: float | None = None,
        request_id: str = "",
        **options: Unpack[Options],
    ) -> Segmentation:
        """As `Client.segment_points`."""
        return await self._segment(image, tasks.points_task(prompts, segmenter, options), timeout_s, request_id)

    async def segment_everything(
        self,
        image: ImageLike,
        *,
        segmenter: str = "",
        timeout_s: float | None = None,
        request_id: str = "",
        **options: Unpack[EverythingOptions],
    ) -> Segmentation:
        """As `Client.segment_everything`."""
        task = tasks.everything_task(segmenter=segmenter, options=options)
        return await self._segment(image, task, timeout_s, request_id)

    async def analyze(
        self,
        image: ImageLike,
        concepts: str | Sequence[str],
        *,
        regions: Regions | None = None,
        template: str = "",
        classifier: str = "",
        segmenter: str = "",
        timeout_s: float | None = None,
        request_id: str = "",
        **options: Unpack[Options],
    ) -> Segmentation:
        """As `Client.analyze`."""
        task = tasks.analyze_task(
            concepts,
            regions=regions,
            template=template,
            classifier=classifier,
            segmenter=segmenter,
            options=options,
        )
        return await self._segment(image, task, timeout_s, request_id)

    def stream(
        self,
        image: ImageLike,
        *,
        phrases: str | Sequence[str] | None = None,
        boxes: Boxes | None = None,
        prompts: Prompts | None = None,
        concepts: str | Sequence[str] | None = None,
        detector: str = "",
        segmenter: str = "",
        timeout_s: float | None = None,
        request_id: str = "",
        **options: Unpack[StreamOptions],
    ) -> AsyncObjectStream:
        """As `Client.stream`: `async for each in client.stream(...)`."""
        task = tasks.any_task(
            phrases=phrases,
            boxes=boxes,
            prompts=prompts,
            concepts=concepts,
            detector=detector,
            segmenter=segmenter,
            options=options,
        )
        call = Call.of(self._connection, timeout_s, request_id)
        return self._stream(read_picture(image), task, call)

    def session(
        self, image: ImageLike, *, segmenter: str = "", timeout_s: float | None = None, request_id: str = ""
    ) -> AsyncSession:
        """As `Client.session`: `async with client.session(picture) as session`."""
        call = Call.of(self._connection, timeout_s, request_id)
        return AsyncSession(lambda: self._link, self._moved.current(read_picture(image)), segmenter, call)

    def live(
        self,
        frames: Iterable[ImageLike | Frame] | AsyncIterable[ImageLike | Frame],
        *,
        boxes: Boxes | None = None,
        prompts: Mapping[int, TrackPrompt] | None = None,
        tracker: str = "",
        newest: bool = False,
        held_frames: int = 0,
        request_id: str = "",
        **options: Unpack[TrackOptions],
    ) -> AsyncLiveStream:
        """As `Client.live`: `async for frame in client.live(...)`; frames may come from an async iterator, too."""
        opening = tracking_opening(tracker, held_frames, options, newest=newest)
        call = Call.of(self._connection, None, request_id)
        return AsyncLiveStream(lambda: self._link, frames, opening, first_prompts(boxes, prompts), call)

    def track(
        self,
        video: str | PathLike[str],
        *,
        boxes: Boxes | None = None,
        prompts: Mapping[int, TrackPrompt] | None = None,
        tracker: str = "",
        start: int = 0,
        end: int | None = None,
        every: int = 1,
        held_frames: int = 0,
        request_id: str = "",
        **options: Unpack[TrackOptions],
    ) -> AsyncLiveStream:
        """As `Client.track`: `async for frame in client.track(...)`."""
        return self.live(
            frames_of(video, start=start, end=end, every=every),
            boxes=boxes,
            prompts=prompts,
            tracker=tracker,
            held_frames=held_frames,
            request_id=request_id,
            **options,
        )

    async def upload_video(
        self, video: VideoLike, *, timeout_s: float | None = None, request_id: str = ""
    ) -> StoredVideo:
        """As `Client.upload_video`."""
        call = Call.of(self._connection, timeout_s, request_id)
        upload = await asyncio.to_thread(VideoUpload.of, video)
        call.place = routing.by_digest(upload.digest)

        def attempt(stubs: Stubs) -> Any:
            return stubs.videos.UploadVideo(upload.requests(), timeout=call.remaining_s(), metadata=call.metadata)

        async with self._turn(call):
            return read_video((await retried_async(call, self._link, attempt)).video)

    async def video(
        self, video: StoredVideo | str, *, timeout_s: float | None = None, request_id: str = ""
    ) -> StoredVideo:
        """As `Client.video`."""
        call = Call.of(self._connection, timeout_s, request_id)
        request = video_service_pb2.GetVideoRequest(video_id=video_id_of(video))
        call.place = routing.by_id(request.video_id)
        return read_video((await self._unary(lambda stubs: stubs.videos.GetVideo, request, call)).video)

    async def delete_video(
        self, video: StoredVideo | str, *, timeout_s: float | None = None, request_id: str = ""
    ) -> None:
        """As `Client.delete_video`."""
        call = Call.of(self._connection, timeout_s, request_id)
        request = video_service_pb2.DeleteVideoRequest(video_id=video_id_of(video))
        call.place = routing.by_id(request.video_id)
        await self._unary(lambda stubs: stubs.videos.DeleteVideo, request, call)

    def track_video(
        self,
        video: StoredVideo | str,
        *,
        prompts: Mapping[int, Mapping[int, TrackPrompt]] | None = None,
        phrases: Mapping[int, str | Sequence[str]] | None = None,
        direction: Direction = "forward",
        start: int = 0,
        end: int | None = None,
        every: int = 1,
        tracker: str = "",
        detector: str = "",
        segmenter: str = "",
        timeout_s: float | None = None,
        request_id: str = "",
        **options: Unpack[TrackOptions],
    ) -> AsyncVideoTrackStream:
        """As `Client.track_video`: `async for frame in client.track_video(...)`."""
        request = track_request(
            video,
            prompts=prompts,
            phrases=phrases,
            direction=direction,
            start=start,
            end=end,
            every=every,
            tracker=tracker,
            detector=detector,
            segmenter=segmenter,
            options=options,
        )
        call = Call.of(self._connection, timeout_s, request_id)
        call.place = routing.by_id(request.video_id)

        def begin(stubs: Stubs) -> Any:
            limit_s = None if timeout_s is None else call.remaining_s()
            return stubs.tracking.TrackVideo(request, timeout=limit_s, metadata=call.metadata)

        async def start_at_a_server() -> tuple[Any, Any]:
            async with self._turn(call):
                return await begun_async(call, self._link, begin)

        messages = flow_async(call, lambda: self._link, start_at_a_server)
        return AsyncVideoTrackStream(messages, Following(request, call.request_id), call)

    async def generate(
        self,
        prompts: str | Sequence[str],
        *,
        timeout_s: float | None = None,
        request_id: str = "",
        **options: Unpack[GenerateOptions],
    ) -> Generation:
        """As `Client.generate`."""
        request = generation_request(prompts, options)
        call = Call.of(self._connection, timeout_s, request_id)

        async def attempt(stubs: Stubs) -> Generation:
            rpc, parts = self._begin_generation(stubs, request, call), PictureAssembly(request, call.request_id)
            answer: Generation = await whole_async(rpc, parts)
            return answer

        async with self._turn(call):
            return await retried_async(call, self._link, attempt)

    def generate_stream(
        self,
        prompts: str | Sequence[str],
        *,
        timeout_s: float | None = None,
        request_id: str = "",
        **options: Unpack[GenerateOptions],
    ) -> AsyncGenerationStream:
        """As `Client.generate_stream`: `async for each in client.generate_stream(...)`."""
        return self._generate(generation_request(prompts, options), Call.of(self._connection, timeout_s, request_id))

    async def upload(self, image: ImageLike, *, timeout_s: float | None = None, request_id: str = "") -> UploadedImage:
        """As `Client.upload`."""
        call = Call.of(self._connection, timeout_s, request_id)
        picture = read_picture(image)
        async with self._turn(call):
            return await self._upload(await asyncio.to_thread(picture.file), picture, call)

    async def download(
        self, image: UploadedImage | ImageId | str, *, timeout_s: float | None = None, request_id: str = ""
    ) -> bytes:
        """As `Client.download`."""
        call = Call.of(self._connection, timeout_s, request_id)
        request = image_service_pb2.GetImageRequest(image_id=image_id_of(image))
        call.place = routing.by_id(request.image_id)

        async def attempt(stubs: Stubs) -> bytes:
            pieces = stubs.images.GetImage(request, timeout=call.remaining_s(), metadata=call.metadata)
            return b"".join([piece.data async for piece in pieces])

        async with self._turn(call):
            return await retried_async(call, self._link, attempt)

    async def delete(
        self, image: UploadedImage | ImageId | str, *, timeout_s: float | None = None, request_id: str = ""
    ) -> None:
        """As `Client.delete`."""
        call = Call.of(self._connection, timeout_s, request_id)
        request = image_service_pb2.DeleteImageRequest(image_id=image_id_of(image))
        call.place = routing.by_id(request.image_id)
        await self._unary(lambda stubs: stubs.images.DeleteImage, request, call)

    async def overlay(
        self,
        image: ImageLike,
        *,
        phrases: str | Sequence[str] | None = None,
        boxes: Boxes | None = None,
        points: Sequence[Point] | None = None,
        detector: str = "",
        segmenter: str = "",
        mask_only: bool = False,
        timeout_s: float | None = None,
        request_id: str = "",
    ) -> PIL.Image.Image:
        """As `Client.overlay`."""
        call = Call.of(self._connection, timeout_s, request_id)
        picture = self._moved.current(read_picture(image))
        request = overlay_request(
            picture,
            phrases=phrases,
            boxes=boxes,
            points=points,
            detector=detector,
            segmenter=segmenter,
            mask_only=mask_only,
        )
        async with self._turn(call):
            if not request.image_id:
                content = await asyncio.to_thread(picture.file)
                if len(content) <= INLINE_BYTES:
                    request.picture.data = content
                else:
                    request.image_id = (await self._upload(content, picture, call)).image_id
            call.place = await asyncio.to_thread(overlay_place, request)
            answer = await self._about(
                picture, request, call, lambda: self._unary(lambda stubs: stubs.images.RenderOverlay, request, call)
            )
        return PIL.Image.open(io.BytesIO(answer.data))

    async def models(self, *, timeout_s: float | None = None, request_id: str = "") -> tuple[Model, ...]:
        """As `Client.models`."""
        call = Call.of(self._connection, timeout_s, request_id)
        request = model_service_pb2.ListModelsRequest()
        answer = await self._unary(lambda stubs: stubs.models.ListModels, request, call)
        return tuple(read_model(model) for model in answer.models)

    async def model(self, name: str, *, timeout_s: float | None = None, request_id: str = "") -> Model:
        """As `Client.model`."""
        call = Call.of(self._connection, timeout_s, request_id)
        request = model_service_pb2.GetModelRequest(name=name)
        return read_model((await self._unary(lambda stubs: stubs.models.GetModel, request, call)).model)

    async def load_model(
        self, name: str, device: str = "", *, timeout_s: float | None = LOAD_TIMEOUT_S, request_id: str = ""
    ) -> Model:
        """As `Client.load_model`."""
        call = Call.of(self._connection, timeout_s, request_id)
        request = model_service_pb2.LoadModelRequest(name=name, device=device)
        return read_model((await self._unary(lambda stubs: stubs.models.LoadModel, request, call)).model)

    async def unload_model(
        self, name: str, device: str = "", *, timeout_s: float | None = None, request_id: str = ""
    ) -> Model:
        """As `Client.unload_model`."""
        call = Call.of(self._connection, timeout_s, request_id)
        request = model_service_pb2.UnloadModelRequest(name=name, device=device)
        return read_model((await self._unary(lambda stubs: stubs.models.UnloadModel, request, call)).model)

    async def status(self, *, timeout_s: float | None = None, request_id: str = "") -> ServerStatus:
        """As `Client.status`."""
        call = Call.of(self._connection, timeout_s, request_id)
        return read_status(
            await self._unary(lambda stubs: stubs.models.GetStatus, model_service_pb2.GetStatusRequest(), call)
        )

    async def health(self, service: str = "", *, timeout_s: float | None = None, request_id: str = "") -> str:
        """As `Client.health`."""
        call = Call.of(self._connection, timeout_s, request_id)
        return read_health(await self._unary(lambda stubs: stubs.health, StringValue(value=service), call))

    async def _segment(
        self, image: ImageLike, task: tasks.Task, timeout_s: float | None, request_id: str
    ) -> Segmentation:
        call = Call.of(self._connection, timeout_s, request_id)
        picture = read_picture(image)

        async def in_pieces() -> Segmentation:
            async def attempt(stubs: Stubs) -> Segmentation:
                rpc, assembly = self._begin(stubs, task, call), Assembly(picture, call.request_id)
                answer: Segmentation = await whole_async(rpc, assembly)
                return answer

            return await retried_async(call, self._link, attempt)

        async def in_one() -> Segmentation:
            answer = await self._unary(lambda stubs: getattr(stubs.segmentation, tasks.method(task)), task, call)
            return read_segmentation(answer.segmentation, picture, call.request_id)

        async with self._turn(call):
            await self._place(picture, task.image, call)
            ask = in_pieces if tasks.may_outgrow_a_message(task) else in_one
            return await self._about(picture, task.image, call, ask)

    def _stream(self, picture: Picture, task: tasks.Task, call: Call) -> AsyncObjectStream:
        async def start() -> tuple[Any, Any]:
            async with self._turn(call):
                await self._place(picture, task.image, call)
                attempt = partial(self._begin, task=task, call=call)
                return await self._about(picture, task.image, call, lambda: begun_async(call, self._link, attempt))

        messages = flow_async(call, lambda: self._link, start)
        return AsyncObjectStream(messages, Assembly(picture, call.request_id), call)

    @staticmethod
    def _begin(stubs: Stubs, task: tasks.Task, call: Call) -> Any:
        request, limit_s = stream_request(task), call.remaining_s()
        return stubs.segmentation.StreamSegmentation(request, timeout=limit_s, metadata=call.metadata)

    def _generate(self, request: generation_service_pb2.GenerateImageRequest, call: Call) -> AsyncGenerationStream:
        async def start() -> tuple[Any, Any]:
            async with self._turn(call):
                attempt = partial(self._begin_generation, request=request, call=call)
                return await begun_async(call, self._link, attempt)

        messages = flow_async(call, lambda: self._link, start)
        return AsyncGenerationStream(messages, PictureAssembly(request, call.request_id), call)

    @staticmethod
    def _begin_generation(stubs: Stubs, request: generation_service_pb2.GenerateImageRequest, call: Call) -> Any:
        message, limit_s = generation_service_pb2.StreamGenerationRequest(request=request), call.remaining_s()
        return stubs.generation.StreamGeneration(message, timeout=limit_s, metadata=call.metadata)

    @asynccontextmanager
    async def _turn(self, call: Call) -> AsyncIterator[None]:
        """A call's turn on the running loop."""
        async with self._lines.here().turns.turn(call):
            yield

    @property
    def _link(self) -> AsyncLink:
        return self._lines.here().link

    async def _place(self, picture: Picture, message: image_pb2.Image, call: Call) -> None:
        """As `Client._place`."""
        place = await asyncio.to_thread(fill, self._moved.current(picture), message)
        if place is None:
            message.image_id = (await self._upload(await asyncio.to_thread(picture.file), picture, call)).image_id
            place = routing.by_id(message.image_id)
        call.place = place

    async def _about(self, picture: Picture, message: Any, call: Call, ask: Callable[[], Awaitable[T]]) -> T:
        """As `Client._about`."""
        try:
            return await ask()
        except NotFoundError as gone:
            if gone.reason != routing.ELSEWHERE or not picture.is_here:
                raise
        content = await asyncio.to_thread(picture.file)
        old, new = message.image_id, (await self._upload(content, picture, call)).image_id
        self._moved.note(old, new)
        message.image_id = new
        call.place = routing.by_id(new)
        return await ask()

    async def _upload(self, content: bytes, picture: Picture, call: Call) -> UploadedImage:
        digest = await asyncio.to_thread(digest_of, content)
        call.place = routing.by_digest(digest)

        def attempt(stubs: Stubs) -> Any:
            requests, limit_s = upload_requests(content, digest), call.remaining_s()
            return stubs.images.UploadImage(requests, timeout=limit_s, metadata=call.metadata)

        return read_upload(await retried_async(call, self._link, attempt), picture)

    async def _unary(self, method: Callable[[Stubs], Any], request: Any, call: Call) -> Any:
        def attempt(stubs: Stubs) -> Any:
            return method(stubs)(request, timeout=call.remaining_s(), metadata=call.metadata)

        return await retried_async(call, self._link, attempt)
