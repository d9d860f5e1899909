"""GenerationService's messages to domain types, and back."""

import secrets
from collections.abc import Iterator

from cutout.v1 import generation_service_pb2 as pb2
from cutout.v1 import segmentation_service_pb2

from cutout_server.call_context import Stages
from cutout_server.convert.checks import Checker, within
from cutout_server.convert.requests import DEFAULT_CHUNK_BYTES, RequestReader
from cutout_server.convert.responses import pieces, timings
from cutout_server.types import (
    GeneratedPicture,
    GenerateRequest,
    GenerationProgress,
    OverlayFormat,
    SegmentRequest,
)

MAX_PROMPTS = 16
MAX_PROMPT_LENGTH = 2000
SIDES = (64, 2048)
SIDE_STEP = 8
MAX_STEPS = 200
DEFAULT_STEPS = 30
GUIDANCE = (1, 30)
DEFAULT_GUIDANCE = 7.5
RANDOM_SEED_BITS = 32  # What JSON's numbers hold, too.
MAX_PIXELS_AT_ONCE = 2**24

FORMATS = {
    pb2.GenerateImageRequest.PICTURE_FORMAT_UNSPECIFIED: OverlayFormat.PNG,
    pb2.GenerateImageRequest.PICTURE_FORMAT_PNG: OverlayFormat.PNG,
    pb2.GenerateImageRequest.PICTURE_FORMAT_JPEG: OverlayFormat.JPEG,
}


def read_request(message: pb2.GenerateImageRequest, reader: RequestReader, *, in_one_message: bool) -> GenerateRequest:
    """What to make.

    Args:
        message: The request.
        reader: For what is to be done with each picture.
        in_one_message: All pictures are answered together.

    Raises:
        InvalidRequestError: Fields are wrong; lists all of them, those of `then` only when all others are right.
    """
    check = Checker()
    check.count("prompts", len(message.prompts), MAX_PROMPTS)
    for index, prompt in enumerate(message.prompts[:MAX_PROMPTS]):
        check.require(bool(prompt.strip()), f"prompts[{index}]", "expected words, got none")
        _check_length(check, prompt, f"prompts[{index}]")
    _check_length(check, message.negative_prompt, "negative_prompt")
    for field in ("width", "height"):
        side = getattr(message, field)
        least, most = SIDES
        check.require(
            side == 0 or (least <= side <= most and side % SIDE_STEP == 0),
            field,
            f"expected a multiple of {SIDE_STEP} in [{least}, {most}], got {side}",
        )
    pixels = len(message.prompts) * message.width * message.height
    check.require(
        not in_one_message or pixels <= MAX_PIXELS_AT_ONCE,
        "prompts",
        f"expected at most {MAX_PIXELS_AT_ONCE:,} pixels in one message, got {pixels:,}: use StreamGeneration",
    )
    steps = message.steps or DEFAULT_STEPS
    check.require(steps <= MAX_STEPS, "steps", f"expected 1 to {MAX_STEPS}, got {steps}")
    guidance = check.optional(message, "guidance", *GUIDANCE)
    file_format = check.choice(message.format, FORMATS, "format")
    check.done()
    return GenerateRequest(
        prompts=tuple(message.prompts),
        negative_prompt=message.negative_prompt,
        width=message.width,
        height=message.height,
        steps=steps,
        guidance=DEFAULT_GUIDANCE if guidance is None else guidance,
        seed=message.seed if message.HasField("seed") else secrets.randbits(RANDOM_SEED_BITS),
        generator=message.generator,
        file_format=file_format,
        then=_then(message, reader),
        then_field=message.WhichOneof("then"),
    )


def image(picture: GeneratedPicture) -> pb2.GeneratedImage:
    """A picture without its file."""
    height, width, _ = picture.pixels.shape
    return pb2.GeneratedImage(
        prompt_index=picture.prompt_index,
        content_type=picture.content_type,
        width=width,
        height=height,
        seed=picture.seed,
    )


def stream_progress(progress: GenerationProgress) -> pb2.StreamGenerationResponse:
    """A step of a picture."""
    return pb2.StreamGenerationResponse(progress=pb2.GenerationProgress(**vars(progress)))


def stream_picture(picture: GeneratedPicture) -> Iterator[pb2.StreamGenerationResponse]:
    """A picture, then its file in chunks."""
    yield pb2.StreamGenerationResponse(image=image(picture))
    for piece, last in pieces(picture.data, DEFAULT_CHUNK_BYTES):
        yield pb2.StreamGenerationResponse(picture_chunk=pb2.PictureChunk(data=piece, last=last))


def stream_segmentation(
    message: segmentation_service_pb2.StreamSegmentationResponse,
) -> pb2.StreamGenerationResponse:
    """A message about a picture's segmentation."""
    return pb2.StreamGenerationResponse(segmentation=message)


def stream_summary(generator: str, stages: Stages) -> pb2.StreamGenerationResponse:
    """The last message."""
    return pb2.StreamGenerationResponse(summary=pb2.GenerationSummary(generator=generator, timings=timings(stages)))


def _check_length(check: Checker, text: str, field: str) -> None:
    check.require(
        len(text) <= MAX_PROMPT_LENGTH, field, f"expected at most {MAX_PROMPT_LENGTH} characters, got {len(text)}"
    )


def _then(message: pb2.GenerateImageRequest, reader: RequestReader) -> SegmentRequest | None:
    kind = message.WhichOneof("then")
    if kind is None:
        return None
    with within(kind):
        check = Checker()
        then = getattr(message, kind)
        check.require(not then.HasField("image"), "image", "expected none: it is the picture that is made")
        check.done()
        whole = type(then)()
        whole.CopyFrom(then)
        whole.image.image_id = "to be made"
        request: SegmentRequest = getattr(reader, kind)(whole)
        return request
