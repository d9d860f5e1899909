"""The services of the contract, and who answers for each."""

from dataclasses import dataclass

import grpc
from cutout.v1 import (
    generation_service_pb2,
    generation_service_pb2_grpc,
    image_service_pb2,
    image_service_pb2_grpc,
    model_service_pb2,
    model_service_pb2_grpc,
    segmentation_service_pb2,
    segmentation_service_pb2_grpc,
    tracking_service_pb2,
    tracking_service_pb2_grpc,
    video_service_pb2,
    video_service_pb2_grpc,
)
from grpc_health.v1 import health, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from cutout_server.services.generation import GenerationServicer
from cutout_server.services.images import ImageServicer
from cutout_server.services.models import ModelServicer
from cutout_server.services.segmentation import SegmentationServicer
from cutout_server.services.tracking import TrackingServicer
from cutout_server.services.videos import VideoServicer

# They need the store.
STORING = (
    image_service_pb2.DESCRIPTOR.services_by_name["ImageService"].full_name,
    video_service_pb2.DESCRIPTOR.services_by_name["VideoService"].full_name,
)
SERVICES = (
    segmentation_service_pb2.DESCRIPTOR.services_by_name["SegmentationService"].full_name,
    *STORING,
    generation_service_pb2.DESCRIPTOR.services_by_name["GenerationService"].full_name,
    tracking_service_pb2.DESCRIPTOR.services_by_name["TrackingService"].full_name,
    model_service_pb2.DESCRIPTOR.services_by_name["ModelService"].full_name,
)


@dataclass(frozen=True)
class Servicers:
    """One for each service."""

    segmentation: SegmentationServicer
    images: ImageServicer
    videos: VideoServicer
    generation: GenerationServicer
    tracking: TrackingServicer
    models: ModelServicer

    def add_to(self, server: grpc.aio.Server, health_servicer: health.aio.HealthServicer, *, reflected: bool) -> None:
        """Has a server answer for all of them, for their health, and for what they are."""
        segmentation_service_pb2_grpc.add_SegmentationServiceServicer_to_server(self.segmentation, server)
        image_service_pb2_grpc.add_ImageServiceServicer_to_server(self.images, server)
        video_service_pb2_grpc.add_VideoServiceServicer_to_server(self.videos, server)
        generation_service_pb2_grpc.add_GenerationServiceServicer_to_server(self.generation, server)
        tracking_service_pb2_grpc.add_TrackingServiceServicer_to_server(self.tracking, server)
        model_service_pb2_grpc.add_ModelServiceServicer_to_server(self.models, server)
        health_pb2_grpc.add_HealthServicer_to_server(health_servicer, server)
        if reflected:
            reflection.enable_server_reflection((*SERVICES, health.SERVICE_NAME, reflection.SERVICE_NAME), server)
