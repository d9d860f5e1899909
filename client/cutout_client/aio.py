"""The client for asyncio programs."""

from collections.abc import Sequence
from typing import Self, Unpack

import PIL.Image

from cutout_client import administration, image_rpcs, tasks
from cutout_client.aio_sessions import AsyncSession
from cutout_client.aio_videos import AsyncVideos
from cutout_client.calls import AsyncCalls
from cutout_client.connection import DEFAULT_ADDRESS, Connection, ConnectionOptions
from cutout_client.generation import AsyncGenerationStream, Generation, generation
from cutout_client.images import ImageId, ImageLike, UploadedImage, image_id_of, read_picture
from cutout_client.keywords import lists_arguments
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
from cutout_client.requests import overlay_request
from cutout_client.results import Segmentation
from cutout_client.status import Model, ServerStatus
from cutout_client.streams import AsyncObjectStream
from cutout_client.transport import LOAD_TIMEOUT_S


@lists_arguments
class AsyncClient(AsyncVideos):
    """A connection to a Cutout server; close it, or use it in `async with`.

    Its methods, arguments, results and errors are those of `Client`. It may be made anywhere, and is used inside of a
    running event loop; each loop on which it is used gets a connection, and `max_in_flight` calls, of its own.
    """

    def __init__(self, address: str = DEFAULT_ADDRESS, **how: Unpack[ConnectionOptions]) -> None:
        self._calls = AsyncCalls(Connection(address, **how))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """As `Client.close`."""
        await self._calls.close()

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
        return AsyncObjectStream(
            *self._calls.stream(image_rpcs.stream(read_picture(image), task), timeout_s, request_id)
        )

    def session(
        self, image: ImageLike, *, segmenter: str = "", timeout_s: float | None = None, request_id: str = ""
    ) -> AsyncSession:
        """As `Client.session`: `async with client.session(picture) as session`."""
        call = self._calls.call(timeout_s, request_id)
        return AsyncSession(self._calls.link, self._calls.current(read_picture(image)), segmenter, call)

    async def generate(
        self,
        prompts: str | Sequence[str],
        *,
        timeout_s: float | None = None,
        request_id: str = "",
        **options: Unpack[GenerateOptions],
    ) -> Generation:
        """As `Client.generate`."""
        return await self._calls.ask(generation(prompts, options), timeout_s, request_id)

    def generate_stream(
        self,
        prompts: str | Sequence[str],
        *,
        timeout_s: float | None = None,
        request_id: str = "",
        **options: Unpack[GenerateOptions],
    ) -> AsyncGenerationStream:
        """As `Client.generate_stream`: `async for each in client.generate_stream(...)`."""
        return AsyncGenerationStream(*self._calls.stream(generation(prompts, options), timeout_s, request_id))

    async def upload(self, image: ImageLike, *, timeout_s: float | None = None, request_id: str = "") -> UploadedImage:
        """As `Client.upload`."""
        return await self._calls.upload(read_picture(image), timeout_s, request_id)

    async def download(
        self, image: UploadedImage | ImageId | str, *, timeout_s: float | None = None, request_id: str = ""
    ) -> bytes:
        """As `Client.download`."""
        return await self._calls.ask(image_rpcs.download(image), timeout_s, request_id)

    async def delete(
        self, image: UploadedImage | ImageId | str, *, timeout_s: float | None = None, request_id: str = ""
    ) -> None:
        """As `Client.delete`."""
        return await self._calls.ask(administration.DELETE_IMAGE(image_id=image_id_of(image)), timeout_s, request_id)

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
        picture = read_picture(image)
        request = overlay_request(
            picture,
            phrases=phrases,
            boxes=boxes,
            points=points,
            detector=detector,
            segmenter=segmenter,
            mask_only=mask_only,
        )
        return await self._calls.ask(image_rpcs.overlay(picture, request), timeout_s, request_id)

    async def models(self, *, timeout_s: float | None = None, request_id: str = "") -> tuple[Model, ...]:
        """As `Client.models`."""
        return await self._calls.ask(administration.LIST_MODELS(), timeout_s, request_id)

    async def model(self, name: str, *, timeout_s: float | None = None, request_id: str = "") -> Model:
        """As `Client.model`."""
        return await self._calls.ask(administration.GET_MODEL(name=name), timeout_s, request_id)

    async def load_model(
        self, name: str, device: str = "", *, timeout_s: float | None = LOAD_TIMEOUT_S, request_id: str = ""
    ) -> Model:
        """As `Client.load_model`."""
        return await self._calls.ask(administration.LOAD_MODEL(name=name, device=device), timeout_s, request_id)

    async def unload_model(
        self, name: str, device: str = "", *, timeout_s: float | None = None, request_id: str = ""
    ) -> Model:
        """As `Client.unload_model`."""
        return await self._calls.ask(administration.UNLOAD_MODEL(name=name, device=device), timeout_s, request_id)

    async def status(self, *, timeout_s: float | None = None, request_id: str = "") -> ServerStatus:
        """As `Client.status`."""
        return await self._calls.ask(administration.GET_STATUS(), timeout_s, request_id)

    async def health(self, service: str = "", *, timeout_s: float | None = None, request_id: str = "") -> str:
        """As `Client.health`."""
        return await self._calls.ask(administration.CHECK_HEALTH(value=service), timeout_s, request_id)

    async def _segment(
        self, image: ImageLike, task: tasks.Task, timeout_s: float | None, request_id: str
    ) -> Segmentation:
        return await self._calls.ask(image_rpcs.segment(read_picture(image), task), timeout_s, request_id)
