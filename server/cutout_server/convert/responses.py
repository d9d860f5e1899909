"""Domain types to answers."""

import datetime
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from cutout.v1 import (
    image_pb2,
    image_service_pb2,
    mask_pb2,
    model_service_pb2,
    segmentation_pb2,
)
from cutout.v1 import segmentation_service_pb2 as service_pb2
from google.protobuf.wrappers_pb2 import BytesValue
from numpy.typing import NDArray

from cutout_server.call_context import Stages
from cutout_server.catalogue import ModelSpec
from cutout_server.images.store import StoredPicture
from cutout_server.status import ServerStatus, State
from cutout_server.types import (
    AnswerFacts,
    BitMask,
    Box,
    ConceptScore,
    EncodedMask,
    EncodedOverlay,
    Logits,
    Omission,
    OmissionReason,
    Picture,
    PngMask,
    PolygonMask,
    Rewriting,
    Rle,
    SegmentedObject,
    Task,
)

# Each takes some microseconds, and none less for being short.
_MANY_OUTLINES = 1000
OMISSION_REASONS = {
    OmissionReason.EMPTY: segmentation_pb2.Omission.REASON_EMPTY,
    OmissionReason.BELOW_MIN_AREA: segmentation_pb2.Omission.REASON_BELOW_MIN_AREA,
    OmissionReason.DUPLICATE: segmentation_pb2.Omission.REASON_DUPLICATE,
    OmissionReason.BEYOND_MAX_OBJECTS: segmentation_pb2.Omission.REASON_BEYOND_MAX_OBJECTS,
    OmissionReason.BELOW_PREDICTED_IOU: segmentation_pb2.Omission.REASON_BELOW_PREDICTED_IOU,
    OmissionReason.BELOW_STABILITY: segmentation_pb2.Omission.REASON_BELOW_STABILITY,
    OmissionReason.CUT_OFF: segmentation_pb2.Omission.REASON_CUT_OFF,
    OmissionReason.SAME_PHRASE: segmentation_pb2.Omission.REASON_SAME_PHRASE,
}
TASKS = {
    Task.SEGMENT: model_service_pb2.Model.TASK_SEGMENT,
    Task.DETECT: model_service_pb2.Model.TASK_DETECT,
    Task.EVERYTHING: model_service_pb2.Model.TASK_EVERYTHING,
    Task.SEGMENT_TEXT: model_service_pb2.Model.TASK_SEGMENT_TEXT,
    Task.CLASSIFY: model_service_pb2.Model.TASK_CLASSIFY,
    Task.GENERATE: model_service_pb2.Model.TASK_GENERATE,
    Task.TRACK: model_service_pb2.Model.TASK_TRACK,
}
STATES = {
    State.STARTING: model_service_pb2.GetStatusResponse.STATE_STARTING,
    State.SERVING: model_service_pb2.GetStatusResponse.STATE_SERVING,
    State.DRAINING: model_service_pb2.GetStatusResponse.STATE_DRAINING,
}


def image_info(picture: Picture, sha256: str) -> image_pb2.ImageInfo:
    """What the server found out about a picture."""
    return image_pb2.ImageInfo(width=picture.width, height=picture.height, pixels_sha256=sha256)


def segmentation(
    facts: AnswerFacts, sha256: str, overlay: EncodedOverlay | None, stages: Stages
) -> segmentation_pb2.Segmentation:
    """A whole answer but for its objects."""
    return segmentation_pb2.Segmentation(
        image=image_info(facts.image, sha256),
        omissions=[_omission(omission) for omission in facts.omissions],
        overlay=segmentation_pb2.Overlay(**vars(overlay)) if overlay else None,
        models=facts.models,
        timings=timings(stages),
        concepts=_concepts(facts.concepts),
        rewriting=_rewriting(facts.rewriting),
    )


def cached(answer: segmentation_pb2.Segmentation, stages: Stages) -> segmentation_pb2.Segmentation:
    """An answer that was made for an equal request, with the times of this one."""
    again = segmentation_pb2.Segmentation()
    again.CopyFrom(answer)
    again.timings.CopyFrom(timings(stages))
    again.cached = True
    return again


def segmented_object(found: SegmentedObject) -> segmentation_pb2.SegmentedObject:
    """One object with its masks inside."""
    return segmentation_pb2.SegmentedObject(
        prompt_index=found.prompt_index,
        label=found.label,
        detection_score=found.detection_score,
        predicted_iou=found.predicted_iou,
        stability_score=found.stability_score,
        prompt_box=write_box(found.prompt_box) if found.prompt_box else None,
        box=write_box(found.box),
        area=found.area,
        masks=[write_mask(mask) for mask in found.encoded],
        logits=None if found.logits is None else _logits(found.logits),
        concepts=_concepts(found.concepts),
    )


def stream_header(facts: AnswerFacts, sha256: str) -> service_pb2.StreamSegmentationResponse:
    """The first message of a stream."""
    header = service_pb2.StreamHeader(
        image=image_info(facts.image, sha256), concepts=_concepts(facts.concepts), rewriting=_rewriting(facts.rewriting)
    )
    return service_pb2.StreamSegmentationResponse(header=header)


def stream_object(
    message: segmentation_pb2.SegmentedObject, chunk_bytes: int
) -> Iterator[service_pb2.StreamSegmentationResponse]:
    """An object, then the chunks of those of its masks for which `chunk_bytes` leave no room inside it."""
    large: dict[int, bytes] = {}
    room = chunk_bytes
    for index, mask in enumerate(message.masks):
        if (size := mask.ByteSize()) > room:
            large[index] = mask.SerializeToString()
            mask.Clear()
        else:
            room -= size
    yield service_pb2.StreamSegmentationResponse(object=message)
    for index, data in large.items():
        for piece, last in pieces(data, chunk_bytes):
            chunk = service_pb2.MaskChunk(mask_index=index, data=piece, last=last)
            yield service_pb2.StreamSegmentationResponse(mask_chunk=chunk)


def stream_overlay(overlay: EncodedOverlay, chunk_bytes: int) -> Iterator[service_pb2.StreamSegmentationResponse]:
    """The chunks of an overlay."""
    for piece, last in pieces(overlay.data, chunk_bytes):
        chunk = service_pb2.OverlayChunk(content_type=overlay.content_type, data=piece, last=last)
        yield service_pb2.StreamSegmentationResponse(overlay_chunk=chunk)


def stream_summary(facts: AnswerFacts, count: int, stages: Stages) -> service_pb2.StreamSegmentationResponse:
    """The last message of a stream."""
    summary = service_pb2.StreamSummary(
        object_count=count,
        omissions=[_omission(omission) for omission in facts.omissions],
        models=facts.models,
        timings=timings(stages),
    )
    return service_pb2.StreamSegmentationResponse(summary=summary)


def timings(stages: Stages) -> segmentation_pb2.Timings:
    """Where the time went."""
    return segmentation_pb2.Timings(
        **{f"{stage}_ms": ms for stage, ms in stages.ms.items()},
        total_ms=stages.total_ms(),
        embedding_cached=stages.embedding_cached,
    )


def upload(file: StoredPicture) -> image_service_pb2.UploadImageResponse:
    """A stored picture."""
    response = image_service_pb2.UploadImageResponse(
        image_id=file.file_id,
        sha256=file.sha256,
        size_bytes=file.size_bytes,
        content_type=file.header.content_type,
        width=file.header.width,
        height=file.header.height,
    )
    response.expire_time.FromDatetime(datetime.datetime.fromtimestamp(file.expires_at_s(), datetime.UTC))
    return response


def model(spec: ModelSpec, loaded: dict[str, int], engines: Sequence[str]) -> model_service_pb2.Model:
    """A model; `loaded` gives its bytes on each device that holds it, `engines` what runs its encoder there."""
    return model_service_pb2.Model(
        name=spec.name,
        family=spec.family.name,
        tasks=sorted(TASKS[task] for task in spec.family.tasks),
        description=spec.description,
        loaded_on=sorted(loaded),
        memory_bytes=max(loaded.values(), default=0),
        vocabulary=spec.family.vocabulary,
        default_for=sorted(TASKS[task] for task in spec.default_for),
        exemplars=spec.family.exemplars,
        engines=sorted(set(engines)),
    )


def status(status: ServerStatus) -> model_service_pb2.GetStatusResponse:
    """The server at this moment."""
    return model_service_pb2.GetStatusResponse(
        version=status.version,
        commit=status.commit,
        state=STATES[status.state],
        uptime_seconds=status.uptime_s,
        devices=[
            model_service_pb2.DeviceStatus(
                name=device.name,
                models=device.models,
                requests=device.requests,
                queued_jobs=device.queued_jobs,
                capacity=device.capacity,
                jobs=device.jobs,
                batches=device.batches,
                model_bytes=sum(device.models.values()),
                memory_budget_bytes=device.memory_budget_bytes,
                memory_used_bytes=device.memory_used_bytes,
                memory_total_bytes=device.memory_total_bytes,
                embeddings=model_service_pb2.CacheStatus(**vars(device.embeddings)),
            )
            for device in status.devices
        ],
        answers=model_service_pb2.CacheStatus(**vars(status.answers)),
        tracking=model_service_pb2.TrackingStatus(**vars(status.tracking)),
        callers=[model_service_pb2.CallerStatus(**vars(use)) for use in status.callers],
        image_store=model_service_pb2.ImageStoreStatus(
            images=status.stored_images,
            bytes=status.stored_bytes,
            capacity_bytes=status.store_capacity_bytes,
        ),
    )


def write_mask(mask: EncodedMask) -> mask_pb2.Mask:
    """A mask in its format."""
    match mask:
        case Rle():
            return mask_pb2.Mask(
                rle=mask_pb2.RleMask(size=[mask.height, mask.width], counts=mask.counts.decode("ascii"))
            )
        case PngMask(data):
            return mask_pb2.Mask(png=data)
        case BitMask():
            return mask_pb2.Mask(bits=mask_pb2.BitMask(height=mask.height, width=mask.width, data=mask.data))
        case PolygonMask():
            polygons = [
                mask_pb2.Polygon(exterior=_ring(polygon.exterior), holes=[_ring(hole) for hole in polygon.holes])
                for polygon in mask.polygons
            ]
            return mask_pb2.Mask(
                polygons=mask_pb2.PolygonMask(
                    height=mask.height,
                    width=mask.width,
                    polygons=polygons,
                    tolerance=mask.tolerance,
                    left_out=mask.left_out,
                )
            )


def takes_long(encoded: Iterable[EncodedMask]) -> bool:
    """Whether masks have so many outlines that the event loop cannot spare the time to write them."""
    return sum(_outlines(mask) for mask in encoded if isinstance(mask, PolygonMask)) > _MANY_OUTLINES


def _outlines(mask: PolygonMask) -> int:
    return sum(1 + len(polygon.holes) for polygon in mask.polygons)


def _ring(vertices: NDArray[np.float32]) -> mask_pb2.Ring:
    """Its millions of numbers in one go: packed on the wire, they are what a field of bytes of that number would be.

    https://protobuf.dev/programming-guides/encoding/#packed
    """
    packed = BytesValue(value=np.ascontiguousarray(vertices, np.dtype("<f4")).tobytes())
    return mask_pb2.Ring.FromString(packed.SerializeToString())


def write_box(box: Box) -> mask_pb2.Box:
    """A box."""
    return mask_pb2.Box(x_min=box.x_min, y_min=box.y_min, x_max=box.x_max, y_max=box.y_max)


def _logits(logits: Logits) -> mask_pb2.LowResLogits:
    height, width = logits.shape
    data = np.ascontiguousarray(logits, np.dtype("<f4")).tobytes()
    return mask_pb2.LowResLogits(height=height, width=width, data=data)


def _concepts(scores: Sequence[ConceptScore]) -> segmentation_pb2.Concepts | None:
    if not scores:
        return None
    return segmentation_pb2.Concepts(scores=[segmentation_pb2.ConceptScore(**vars(score)) for score in scores])


def _rewriting(rewriting: Rewriting | None) -> segmentation_pb2.Rewriting | None:
    if rewriting is None:
        return None
    phrases = [segmentation_pb2.RewrittenPhrase(**vars(phrase)) for phrase in rewriting.phrases]
    return segmentation_pb2.Rewriting(phrases=phrases, failure=rewriting.failure)


def _omission(omission: Omission) -> segmentation_pb2.Omission:
    return segmentation_pb2.Omission(**vars(omission) | {"reason": OMISSION_REASONS[omission.reason]})


def pieces(data: bytes, size: int) -> Iterator[tuple[bytes, bool]]:
    """Data in pieces of a size, and whether each is the last."""
    for start in range(0, len(data), size):
        yield data[start : start + size], start + size >= len(data)
