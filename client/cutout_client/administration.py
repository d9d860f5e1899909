"""The table of plain RPCs: models, the server's state, and what is stored under an id. Each row is one RPC."""

from typing import Any

from cutout.v1 import image_service_pb2, model_service_pb2, video_service_pb2
from cutout_common import routing
from cutout_common.routing import Place
from google.protobuf.wrappers_pb2 import StringValue

from cutout_client.responses import read_health, read_model, read_status
from cutout_client.rpcs import Row
from cutout_client.status import Model
from cutout_client.stored import read_video


def _models(answer: model_service_pb2.ListModelsResponse) -> tuple[Model, ...]:
    return tuple(map(read_model, answer.models))


def _model(answer: Any) -> Model:
    return read_model(answer.model)


def _nothing(_: Any) -> None:
    return None


def _of_image(request: image_service_pb2.DeleteImageRequest) -> Place:
    return routing.by_id(request.image_id)


def _of_video(request: Any) -> Place:
    return routing.by_id(request.video_id)


LIST_MODELS = Row(model_service_pb2.ListModelsRequest, lambda stubs: stubs.models.ListModels, _models)
GET_MODEL = Row(model_service_pb2.GetModelRequest, lambda stubs: stubs.models.GetModel, _model)
LOAD_MODEL = Row(model_service_pb2.LoadModelRequest, lambda stubs: stubs.models.LoadModel, _model)
UNLOAD_MODEL = Row(model_service_pb2.UnloadModelRequest, lambda stubs: stubs.models.UnloadModel, _model)
GET_STATUS = Row(model_service_pb2.GetStatusRequest, lambda stubs: stubs.models.GetStatus, read_status)
CHECK_HEALTH = Row(StringValue, lambda stubs: stubs.health, read_health, called={"value": "service"})
DELETE_IMAGE = Row(image_service_pb2.DeleteImageRequest, lambda stubs: stubs.images.DeleteImage, _nothing, _of_image)
GET_VIDEO = Row(
    video_service_pb2.GetVideoRequest, lambda stubs: stubs.videos.GetVideo, lambda it: read_video(it.video), _of_video
)
DELETE_VIDEO = Row(video_service_pb2.DeleteVideoRequest, lambda stubs: stubs.videos.DeleteVideo, _nothing, _of_video)
