"""Pictures made from words: the request, the stream of its answer, and what callers get."""

import io
import secrets
from collections.abc import AsyncGenerator, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import Any

import grpc
import PIL.Image
from cutout.v1 import generation_service_pb2
from cutout_common.disks import write
from cutout_common.status import ErrorDetails

from cutout_client.answer import Timings
from cutout_client.errors import InternalError
from cutout_client.images import FilePicture
from cutout_client.keywords import choose
from cutout_client.messages import build, words
from cutout_client.objects import SegmentedObject
from cutout_client.prompts import GenerateOptions, StreamOptions
from cutout_client.requests import field_of
from cutout_client.responses import read_timings
from cutout_client.results import Segmentation
from cutout_client.rpcs import Streamed
from cutout_client.streams import Assembly, AsyncMessageStream, MessageStream
from cutout_client.tasks import any_task
from cutout_client.transport import Call

Request = generation_service_pb2.GenerateImageRequest
Message = generation_service_pb2.StreamGenerationResponse

_FORMATS = {"png": Request.PICTURE_FORMAT_PNG, "jpeg": Request.PICTURE_FORMAT_JPEG}
_CUT_OUT = StreamOptions.__annotations__.keys() | {"detector", "segmenter"}


@dataclass(frozen=True)
class GenerationProgress:
    """How far a picture has come.

    Attributes:
        prompt_index: Which prompt's it is.
        step: Steps that are done.
        steps: Steps in all.
    """

    prompt_index: int
    step: int
    steps: int


@dataclass(frozen=True)
class GeneratedImage:
    """A picture that was made.

    Attributes:
        prompt: Its prompt.
        prompt_index: Which of the prompts that is.
        seed: What made it: with the same request it makes it again.
        width: Columns, in pixels.
        height: Rows.
        content_type: "image/png" or "image/jpeg".
        data: The file.
        segmentation: What was found in it, when that was asked for.
    """

    prompt: str
    prompt_index: int
    seed: int
    width: int
    height: int
    content_type: str
    data: bytes = field(repr=False)
    segmentation: Segmentation | None = field(repr=False)

    @property
    def image(self) -> PIL.Image.Image:
        """The picture."""
        return PIL.Image.open(io.BytesIO(self.data))

    def _repr_mimebundle_(self, **_: Any) -> dict[str, Any]:
        return {"text/plain": repr(self), self.content_type: self.data}

    def save(self, path: str | PathLike[str]) -> Path:
        """Writes the file as it came, whatever the path's ending."""
        target = Path(path)
        write(target, self.data)
        return target


@dataclass(frozen=True)
class Generation:
    """An answer: a sequence of its pictures.

    Attributes:
        images: One for each prompt, in their order.
        generator: Name of the model that made them.
        timings: Where the time went.
        request_id: The id under which the server logged the call.
    """

    images: tuple[GeneratedImage, ...]
    generator: str
    timings: Timings
    request_id: str

    def __iter__(self) -> Iterator[GeneratedImage]:
        return iter(self.images)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> GeneratedImage:
        return self.images[index]


Event = GenerationProgress | GeneratedImage


def generation_request(prompts: str | Sequence[str], options: GenerateOptions) -> Request:
    """What is to be made.

    Raises:
        TypeError: A value is of a type that its option does not take.
        ValueError: A value cannot be sent, or options of segmentation come without something to cut out.
    """
    given: dict[str, Any] = {name: value for name, value in options.items() if value is not None}
    image_format = given.pop("image_format", "png")
    choose("image_format", image_format, _FORMATS)
    cut_out = {name: given.pop(name) for name in _CUT_OUT & given.keys()}
    what = {name: given.pop(name, None) for name in ("phrases", "concepts", "everything")}
    request = build(Request, prompts=words("prompts", prompts), format=_FORMATS[image_format], **given)
    _then(request, what, cut_out)
    if not request.HasField("seed"):
        request.seed = secrets.randbits(32)  # by the client, for another server to go on with the same pictures
    return request


class PictureAssembly:
    """Puts a streamed answer together; knows nothing of how its messages arrive."""

    def __init__(self, request: Request, request_id: str) -> None:
        self._request = request
        self._request_id = request_id
        self._image: generation_service_pb2.GeneratedImage | None = None
        self._pieces: list[bytes] = []
        self._assembly: Assembly | None = None
        self._objects: list[SegmentedObject] = []
        self._summary: generation_service_pb2.GenerationSummary | None = None
        self._count = 0

    def add(self, message: Message) -> Event | None:
        """Takes the next message; gives a step, or the picture that it completes."""
        match message.WhichOneof("event"):
            case "progress":
                progress = message.progress
                return GenerationProgress(progress.prompt_index, progress.step, progress.steps)
            case "image":
                self._image, self._pieces, self._objects = message.image, [], []
            case "picture_chunk":
                self._pieces.append(message.picture_chunk.data)
                if message.picture_chunk.last:
                    picture = FilePicture(b"".join(self._pieces))
                    self._assembly = Assembly(picture, self._request_id)
                    if self._request.WhichOneof("then") is None:
                        return self._complete(None)
            case "segmentation" if self._assembly is not None:
                found = self._assembly.add(message.segmentation)
                self._objects += [] if found is None else [found]
                if message.segmentation.HasField("summary"):
                    return self._complete(self._assembly.result(self._objects))
            case "summary":
                self._summary = message.summary
        return None

    def result(self, events: Sequence[Event]) -> Generation:
        """The whole answer, around those of its pictures that the caller still wants.

        Raises:
            InternalError: It ended too early.
        """
        if self._summary is None or self._count != len(self._request.prompts):
            details = ErrorDetails(request_id=self._request_id)
            raise InternalError(grpc.StatusCode.DATA_LOSS, "the stream ended before every picture was there", details)
        return Generation(
            images=tuple(event for event in events if isinstance(event, GeneratedImage)),
            generator=self._summary.generator,
            timings=read_timings(self._summary.timings),
            request_id=self._request_id,
        )

    def _complete(self, segmentation: Segmentation | None) -> GeneratedImage | None:
        image, self._image = self._image, None
        if image is None:
            return None
        self._count += 1
        return GeneratedImage(
            prompt=self._request.prompts[image.prompt_index],
            prompt_index=image.prompt_index,
            seed=image.seed,
            width=image.width,
            height=image.height,
            content_type=image.content_type,
            data=b"".join(self._pieces),
            segmentation=segmentation,
        )


def generation(prompts: str | Sequence[str], options: GenerateOptions) -> Streamed[Generation, PictureAssembly]:
    """Makes pictures, step by step; raises as `generation_request` does."""
    request = generation_request(prompts, options)
    return Streamed(
        lambda stubs: stubs.generation.StreamGeneration,
        lambda: generation_service_pb2.StreamGenerationRequest(request=request),
        lambda request_id: PictureAssembly(request, request_id),
    )


class GenerationStream(MessageStream[Event]):
    """Steps and pictures, each as soon as it is there. The call is made when the first one is asked for.

    Leaving early ends the work at its next step: use it in a `with` block, or call `close`.
    """

    def __init__(self, messages: Generator[Any, None, None], assembly: PictureAssembly, call: Call) -> None:
        super().__init__(messages, assembly, call)
        self._assembly = assembly

    def result(self) -> Generation:
        """Waits for the end: the pictures that were not taken yet, with times and the generator's name."""
        return self._assembly.result(list(self))


class AsyncGenerationStream(AsyncMessageStream[Event]):
    """As `GenerationStream`, for asyncio."""

    def __init__(self, messages: AsyncGenerator[Any, None], assembly: PictureAssembly, call: Call) -> None:
        super().__init__(messages, assembly, call)
        self._assembly = assembly

    async def result(self) -> Generation:
        """Waits for the end: the pictures that were not taken yet, with times and the generator's name."""
        return self._assembly.result([each async for each in self])


def _then(request: Request, what: Mapping[str, Any], options: dict[str, Any]) -> None:
    wanted = [name for name, value in what.items() if value]
    if not wanted:
        if useless := sorted(k for k, value in options.items() if value or not isinstance(value, str | bool)):
            raise ValueError(f"{', '.join(useless)} needs something to cut out: phrases, concepts or everything=True")
        return
    if len(wanted) > 1:
        raise ValueError(f"give one of phrases, concepts and everything; got {', '.join(wanted)}")
    named = {name: options.pop(name, "") for name in ("detector", "segmenter")}
    others: Any = options
    task = any_task(
        phrases=what["phrases"] or None,
        boxes=None,
        prompts=None,
        concepts=what["concepts"] or None,
        **named,
        options=others,
    )
    getattr(request, field_of(task)).CopyFrom(task)
