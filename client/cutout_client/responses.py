"""Messages read into what callers get."""

from collections.abc import Iterable
from dataclasses import fields
from datetime import UTC
from typing import Any, Protocol

import numpy as np
from cutout.v1 import (
    image_pb2,
    image_service_pb2,
    mask_pb2,
    model_service_pb2,
    segmentation_pb2,
    segmentation_service_pb2,
)
from google.protobuf.wrappers_pb2 import Int32Value
from numpy.typing import NDArray

from cutout_client.answer import ImageInfo, Omission, Timings
from cutout_client.concepts import Concepts, ConceptScore, Rewriting, RewrittenPhrase
from cutout_client.images import ImageId, Picture, UploadedImage
from cutout_client.objects import SegmentedObject
from cutout_client.prompts import Box
from cutout_client.results import Segmentation
from cutout_client.status import CacheStatus, CallerStatus, DeviceStatus, ImageStoreStatus, Model, ServerStatus

_HEALTH = ("unknown", "serving", "not_serving", "service_unknown")  # HealthCheckResponse.ServingStatus, from 0
_Describing = segmentation_pb2.Segmentation | segmentation_pb2.SegmentedObject | segmentation_service_pb2.StreamHeader


class _Enum(Protocol):
    def items(self) -> Iterable[tuple[str, int]]: ...


def read_segmentation(message: segmentation_pb2.Segmentation, picture: Picture, request_id: str) -> Segmentation:
    """Reads a whole answer."""
    return Segmentation(
        objects=tuple(read_object(each, picture) for each in message.objects),
        image=read_image_info(message.image),
        omissions=read_omissions(message.omissions),
        models=tuple(message.models),
        timings=read_timings(message.timings),
        request_id=request_id,
        overlay_file=message.overlay.data,
        picture=picture,
        concepts=read_concepts(message),
        rewriting=read_rewriting(message),
        cached=message.cached,
        message=message,
    )


def read_object(message: segmentation_pb2.SegmentedObject, picture: Picture) -> SegmentedObject:
    """Reads one object; its masks are decoded when they are asked for."""
    return SegmentedObject(
        label=message.label,
        detection_score=message.detection_score if message.HasField("detection_score") else None,
        predicted_iou=message.predicted_iou,
        stability_score=message.stability_score if message.HasField("stability_score") else None,
        prompt_index=message.prompt_index,
        prompt_box=_box(message.prompt_box) if message.HasField("prompt_box") else None,
        box=_box(message.box),
        area=message.area,
        logits=_logits(message.logits) if message.HasField("logits") else None,
        encodings=tuple(message.masks),
        concepts=read_concepts(message),
        picture=picture,
    )


def read_concepts(message: _Describing) -> Concepts | None:
    """Reads what a picture or a part of it shows, of a message that may say so."""
    if not message.HasField("concepts"):
        return None
    return Concepts(
        tuple(
            ConceptScore(
                each.concept, each.score, each.concept_index, each.same_as if each.HasField("same_as") else None
            )
            for each in message.concepts.scores
        )
    )


def read_rewriting(message: segmentation_pb2.Segmentation | segmentation_service_pb2.StreamHeader) -> Rewriting | None:
    """Reads what became of the phrases."""
    if not message.HasField("rewriting"):
        return None
    phrases = (RewrittenPhrase(each.phrase, each.prompt_index) for each in message.rewriting.phrases)
    return Rewriting(tuple(phrases), message.rewriting.failure)


def read_image_info(message: image_pb2.ImageInfo) -> ImageInfo:
    """Reads what the server saw."""
    return ImageInfo(width=message.width, height=message.height, pixels_sha256=message.pixels_sha256)


def read_omissions(messages: Iterable[segmentation_pb2.Omission]) -> tuple[Omission, ...]:
    """Reads what was left out."""
    reasons = segmentation_pb2.Omission.Reason
    return tuple(
        Omission(
            _name(reasons, each.reason, "REASON_"),
            each.count,
            tuple(each.prompt_indices),
            each.threshold if each.HasField("threshold") else None,
            each.best if each.HasField("best") else None,
            each.same_as if each.HasField("same_as") else None,
        )
        for each in messages
    )


def read_timings(message: segmentation_pb2.Timings) -> Timings:
    """Reads how long the stages took."""
    return Timings(**{field.name: getattr(message, field.name) for field in fields(Timings)})


def read_upload(message: image_service_pb2.UploadImageResponse, local: Picture) -> UploadedImage:
    """Reads what the server stored."""
    return UploadedImage(
        image_id=ImageId(message.image_id),
        sha256=message.sha256,
        size_bytes=message.size_bytes,
        content_type=message.content_type,
        width=message.width,
        height=message.height,
        expire_time=message.expire_time.ToDatetime(UTC),
        local=local,
    )


def read_model(message: model_service_pb2.Model) -> Model:
    """Reads one model."""
    tasks = model_service_pb2.Model.Task
    return Model(
        name=message.name,
        family=message.family,
        tasks=tuple(_name(tasks, task, "TASK_") for task in message.tasks),
        description=message.description,
        loaded_on=tuple(message.loaded_on),
        memory_bytes=message.memory_bytes,
        vocabulary=tuple(message.vocabulary),
        default_for=tuple(_name(tasks, task, "TASK_") for task in message.default_for),
        exemplars=message.exemplars,
        engines=tuple(message.engines),
    )


def read_status(message: model_service_pb2.GetStatusResponse) -> ServerStatus:
    """Reads how the server is doing."""
    return ServerStatus(
        version=message.version,
        commit=message.commit,
        state=_name(model_service_pb2.GetStatusResponse.State, message.state, "STATE_"),
        uptime_seconds=message.uptime_seconds,
        devices=tuple(_device(each) for each in message.devices),
        image_store=ImageStoreStatus(**_values(message.image_store, ImageStoreStatus)),
        answers=CacheStatus(**_values(message.answers, CacheStatus)),
        callers=tuple(CallerStatus(**_values(each, CallerStatus)) for each in message.callers),
    )


def read_health(message: Int32Value) -> str:
    """Reads a health check: "serving", "not_serving", "unknown" or "service_unknown"."""
    return _HEALTH[message.value] if 0 <= message.value < len(_HEALTH) else "unknown"


def _device(message: model_service_pb2.DeviceStatus) -> DeviceStatus:
    embeddings = CacheStatus(**_values(message.embeddings, CacheStatus))
    return DeviceStatus(**_values(message, DeviceStatus) | {"models": tuple(message.models), "embeddings": embeddings})


def _values(message: Any, into: Any) -> dict[str, Any]:
    return {field.name: getattr(message, field.name) for field in fields(into)}


def _name(enum: _Enum, number: Any, prefix: str) -> str:
    """An enum's word; its number when the server is newer and has more of them."""
    known: dict[int, str] = {value: name for name, value in enum.items()}
    return known.get(number, str(number)).removeprefix(prefix).lower()


def _box(message: mask_pb2.Box) -> Box:
    return Box(message.x_min, message.y_min, message.x_max, message.y_max)


def _logits(message: mask_pb2.LowResLogits) -> NDArray[np.float32]:
    return np.frombuffer(message.data, "<f4").reshape(message.height, message.width)
