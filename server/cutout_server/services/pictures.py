"""A request's pictures, and what they came to, as a whole answer or as a stream of messages."""

from collections.abc import AsyncGenerator
from contextlib import aclosing

from cutout.v1 import generation_service_pb2 as pb2

from cutout_server import call_context
from cutout_server.convert import generation as convert
from cutout_server.convert.checks import within
from cutout_server.convert.requests import DEFAULT_CHUNK_BYTES
from cutout_server.convert.responses import timings
from cutout_server.pipelines.generate import GeneratePipeline
from cutout_server.pipelines.segment import SegmentPipeline
from cutout_server.services import answers
from cutout_server.services.answers import Room
from cutout_server.types import GeneratedPicture, GenerateRequest, TensorImage


async def whole(
    generation: GeneratePipeline, segmentation: SegmentPipeline, request: GenerateRequest, room: Room
) -> pb2.GenerateImageResponse:
    """Everything in one message.

    Raises:
        AnswerTooLargeError: There is no room for it; no more pictures are made from then on.
    """
    response = pb2.GenerateImageResponse(generator=_checked(generation, segmentation, request))
    async with aclosing(generation.make(request)) as events:
        async for event in events:
            if isinstance(event, GeneratedPicture):
                image = convert.image(event)
                image.data = event.data
                await room.take(image)
                if request.then is not None:
                    with within(request.then_field), call_context.part():
                        then = request.then.with_image(TensorImage(event.pixels))
                        answer = await answers.whole(segmentation, then, room)
                    image.segmentation.CopyFrom(answer)
                response.images.append(image)
    response.timings.CopyFrom(timings(call_context.current().stages))
    return response


async def stream(
    generation: GeneratePipeline, segmentation: SegmentPipeline, request: GenerateRequest
) -> AsyncGenerator[pb2.StreamGenerationResponse]:
    """For each prompt its steps, its picture in chunks, its segmentation; then the summary."""
    generator = _checked(generation, segmentation, request)
    async with aclosing(generation.make(request)) as events:
        async for event in events:
            if not isinstance(event, GeneratedPicture):
                yield convert.stream_progress(event)
                continue
            for message in convert.stream_picture(event):
                yield message
            async with aclosing(_segmented(segmentation, request, event)) as messages:
                async for message in messages:
                    yield message
    yield convert.stream_summary(generator, call_context.current().stages)


async def _segmented(
    segmentation: SegmentPipeline, request: GenerateRequest, picture: GeneratedPicture
) -> AsyncGenerator[pb2.StreamGenerationResponse]:
    if request.then is None:
        return
    with within(request.then_field), call_context.part():
        answer = answers.stream(segmentation, request.then.with_image(TensorImage(picture.pixels)), DEFAULT_CHUNK_BYTES)
        async with aclosing(answer) as messages:
            async for message in messages:
                yield convert.stream_segmentation(message)


def _checked(generation: GeneratePipeline, segmentation: SegmentPipeline, request: GenerateRequest) -> str:
    """The generator's name, once it is known that there are models for everything."""
    generator = generation.choose(request.generator)
    if request.then is not None:
        with within(request.then_field):
            segmentation.check(request.then)
    return generator.name
