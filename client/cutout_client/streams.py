"""Answers that come object by object."""

from collections.abc import AsyncGenerator, AsyncIterator, Generator, Iterator, Sequence
from contextlib import aclosing, closing
from typing import Any, Protocol, Self, TypeVar

import grpc
from cutout.v1 import segmentation_pb2, segmentation_service_pb2
from cutout_common.failover import so_far
from cutout_common.status import ErrorDetails

from cutout_client.answer import ImageInfo
from cutout_client.concepts import Concepts, Rewriting
from cutout_client.diagnosis import translated, translated_async
from cutout_client.errors import CutoutError, InternalError
from cutout_client.images import Picture
from cutout_client.objects import SegmentedObject
from cutout_client.responses import (
    read_concepts,
    read_image_info,
    read_object,
    read_omissions,
    read_rewriting,
    read_timings,
)
from cutout_client.results import Segmentation
from cutout_client.transport import Call

T = TypeVar("T")
Message = segmentation_service_pb2.StreamSegmentationResponse


class Assembly:
    """Puts a streamed answer together; knows nothing of how its messages arrive.

    Attributes:
        image: The picture as the server saw it, once the first message is there.
        concepts: What the whole picture shows, likewise.
        rewriting: What became of the phrases, likewise.
    """

    def __init__(self, picture: Picture, request_id: str) -> None:
        self.image: ImageInfo | None = None
        self.concepts: Concepts | None = None
        self.rewriting: Rewriting | None = None
        self._picture = picture
        self._request_id = request_id
        self._object: segmentation_pb2.SegmentedObject | None = None
        self._pieces: dict[int, list[bytes]] = {}
        self._overlay: list[bytes] = []
        self._summary: segmentation_service_pb2.StreamSummary | None = None
        self._count = 0

    def add(self, message: Message) -> SegmentedObject | None:
        """Takes the next message; gives the object that it completes, if it does."""
        match message.WhichOneof("event"):
            case "header":
                self.image = read_image_info(message.header.image)
                self.concepts = read_concepts(message.header)
                self.rewriting = read_rewriting(message.header)
            case "object":
                self._object = message.object
                self._pieces = {i: [] for i, mask in enumerate(message.object.masks) if not mask.WhichOneof("encoding")}
                return self._complete()
            case "mask_chunk":
                return self._add_chunk(message.mask_chunk)
            case "overlay_chunk":
                self._overlay.append(message.overlay_chunk.data)
            case "summary":
                self._summary = message.summary
        return None

    def result(self, objects: Sequence[SegmentedObject]) -> Segmentation:
        """The whole answer, around those of its objects that the caller still wants.

        Raises:
            InternalError: It ended too early.
        """
        summary, image = self._summary, self.image
        if summary is None or image is None or self._object is not None or summary.object_count != self._count:
            details = ErrorDetails(request_id=self._request_id)
            raise InternalError(
                grpc.StatusCode.DATA_LOSS, "the stream ended before the whole answer was there", details
            )
        return Segmentation(
            objects=tuple(objects),
            image=image,
            omissions=read_omissions(summary.omissions),
            models=tuple(summary.models),
            timings=read_timings(summary.timings),
            request_id=self._request_id,
            overlay_file=b"".join(self._overlay),
            picture=self._picture,
            concepts=self.concepts,
            rewriting=self.rewriting,
        )

    def _add_chunk(self, chunk: segmentation_service_pb2.MaskChunk) -> SegmentedObject | None:
        pieces = self._pieces[chunk.mask_index]
        pieces.append(chunk.data)
        if not chunk.last:
            return None
        assert self._object is not None  # noqa: S101  # its pieces are awaited
        self._object.masks[chunk.mask_index].ParseFromString(b"".join(pieces))
        del self._pieces[chunk.mask_index]
        return self._complete()

    def _complete(self) -> SegmentedObject | None:
        if self._pieces or self._object is None:
            return None
        complete, self._object = self._object, None
        self._count += 1
        return read_object(complete, self._picture)


class Parts(Protocol[T]):
    """Puts a streamed answer together; knows nothing of how its messages arrive."""

    def add(self, message: Any) -> T | None:
        """Takes the next message; gives what it completes, if it does."""

    def result(self, items: Sequence[T]) -> Any:
        """The whole answer, around those items that the caller still wants; raises when it ended too early."""


def whole(rpc: Any, parts: Parts[Any]) -> Any:
    """All of a streamed answer."""
    try:
        return parts.result([complete for message in rpc if (complete := parts.add(message)) is not None])
    except BaseException:
        rpc.cancel()
        raise


async def whole_async(rpc: Any, parts: Parts[Any]) -> Any:
    """As `whole`, for asyncio."""
    try:
        return parts.result([complete async for message in rpc if (complete := parts.add(message)) is not None])
    except BaseException:
        rpc.cancel()
        raise


class MessageStream(Iterator[T]):
    """What an answer is made of, each part as soon as it is there. The call is made when the first one is asked for.

    Leaving early cancels what is still to come: use it in a `with` block, or call `close`.
    """

    def __init__(self, messages: Generator[Any, None, None], parts: Parts[T], call: Call) -> None:
        self._items = self._receive(messages, parts, call)

    def __next__(self) -> T:
        return next(self._items)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Cancels what is still to come."""
        self._items.close()

    @staticmethod
    def _receive(messages: Generator[Any, None, None], parts: Parts[T], call: Call) -> Generator[T, None, None]:
        count = 0
        try:
            with translated(call), closing(messages):
                for message in messages:
                    if (complete := parts.add(message)) is not None:
                        count += 1
                        yield complete
        except CutoutError as error:
            _tell(error, count)
            raise
        parts.result(())


class AsyncMessageStream(AsyncIterator[T]):
    """As `MessageStream`, for asyncio."""

    def __init__(self, messages: AsyncGenerator[Any, None], parts: Parts[T], call: Call) -> None:
        self._items = self._receive(messages, parts, call)

    async def __anext__(self) -> T:
        return await anext(self._items)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Cancels what is still to come."""
        await self._items.aclose()

    @staticmethod
    async def _receive(messages: AsyncGenerator[Any, None], parts: Parts[T], call: Call) -> AsyncGenerator[T, None]:
        count = 0
        try:
            async with translated_async(call), aclosing(messages):
                async for message in messages:
                    if (complete := parts.add(message)) is not None:
                        count += 1
                        yield complete
        except CutoutError as error:
            _tell(error, count)
            raise
        parts.result(())


def _tell(error: CutoutError, count: int) -> None:
    """Has it say after how much of the answer it came."""
    error.message += so_far(count)
    error.args = (error.message,)


class _Described:
    """What both twins tell of the picture."""

    _assembly: Assembly

    @property
    def image(self) -> ImageInfo | None:
        """The picture as the server saw it; None before the first object or the end is reached."""
        return self._assembly.image

    @property
    def concepts(self) -> Concepts | None:
        """What the whole picture shows, as early as `image`; from `analyze`'s concepts alone."""
        return self._assembly.concepts

    @property
    def rewriting(self) -> Rewriting | None:
        """What became of the phrases, as early as `image`; None unless rewriting was asked for."""
        return self._assembly.rewriting


class ObjectStream(_Described, MessageStream[SegmentedObject]):
    """The objects of an answer, each as soon as it is there. The call is made when the first one is asked for.

    Leaving early cancels what is still to come: use it in a `with` block, or call `close`.
    """

    def __init__(self, messages: Generator[Any, None, None], assembly: Assembly, call: Call) -> None:
        super().__init__(messages, assembly, call)
        self._assembly = assembly

    def result(self) -> Segmentation:
        """Waits for the end: the objects that were not taken yet, with times, models, omissions and overlay."""
        return self._assembly.result(list(self))


class AsyncObjectStream(_Described, AsyncMessageStream[SegmentedObject]):
    """As `ObjectStream`, for asyncio."""

    def __init__(self, messages: AsyncGenerator[Any, None], assembly: Assembly, call: Call) -> None:
        super().__init__(messages, assembly, call)
        self._assembly = assembly

    async def result(self) -> Segmentation:
        """Waits for the end: the objects that were not taken yet, with times, models, omissions and overlay."""
        return self._assembly.result([each async for each in self])
