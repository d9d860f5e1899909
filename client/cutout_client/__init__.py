"""Cutout's Python client: a picture and a prompt in, masks out.

For example:

    from cutout_client import Client

    with Client("localhost:50051") as client:
        for found in client.segment_text("cat.jpg", ["cat"]):
            print(found.label, found.score, found.mask.shape)

`AsyncClient` is the same for asyncio.
"""

from cutout_common import __version__

from cutout_client.aio import AsyncClient
from cutout_client.aio_live import AsyncLiveStream
from cutout_client.aio_sessions import AsyncSession
from cutout_client.answer import ImageInfo, Omission, Timings
from cutout_client.client import Client
from cutout_client.coco import CocoDataset
from cutout_client.concepts import Concepts, ConceptScore, Rewriting, RewrittenPhrase
from cutout_client.connection import ConnectionOptions
from cutout_client.encodings import Polygon
from cutout_client.errors import (
    AbortedError,
    CallCancelledError,
    CutoutError,
    DeadlineError,
    FailedPreconditionError,
    FieldViolation,
    InternalError,
    InvalidRequestError,
    NotFoundError,
    OverloadedError,
    PermissionDeniedError,
    TooLargeError,
    UnauthenticatedError,
    UnavailableError,
    UnimplementedError,
)
from cutout_client.found import FoundObject, FoundObjects
from cutout_client.generation import (
    AsyncGenerationStream,
    GeneratedImage,
    Generation,
    GenerationProgress,
    GenerationStream,
)
from cutout_client.images import ImageId, ImageLike, UploadedImage, VideoFrame
from cutout_client.live import LiveStream
from cutout_client.objects import SegmentedObject
from cutout_client.prompts import (
    Box,
    EverythingOptions,
    Exemplar,
    GenerateOptions,
    Options,
    Prompt,
    StreamOptions,
    TextOptions,
    Tiling,
)
from cutout_client.results import Segmentation
from cutout_client.sessions import Session
from cutout_client.status import CacheStatus, CallerStatus, DeviceStatus, ImageStoreStatus, Model, ServerStatus
from cutout_client.stored import AsyncVideoTrackStream, StoredVideo, VideoTrackOptions, VideoTrackStream
from cutout_client.streams import AsyncObjectStream, ObjectStream
from cutout_client.tracked import Frame, LiveOptions, TrackedFrame, TrackedObject, TrackOptions, TrackPrompt

__all__ = [
    "AbortedError",
    "AsyncClient",
    "AsyncGenerationStream",
    "AsyncLiveStream",
    "AsyncObjectStream",
    "AsyncSession",
    "AsyncVideoTrackStream",
    "Box",
    "CacheStatus",
    "CallCancelledError",
    "CallerStatus",
    "Client",
    "CocoDataset",
    "ConceptScore",
    "Concepts",
    "ConnectionOptions",
    "CutoutError",
    "DeadlineError",
    "DeviceStatus",
    "EverythingOptions",
    "Exemplar",
    "FailedPreconditionError",
    "FieldViolation",
    "FoundObject",
    "FoundObjects",
    "Frame",
    "GenerateOptions",
    "GeneratedImage",
    "Generation",
    "GenerationProgress",
    "GenerationStream",
    "ImageId",
    "ImageInfo",
    "ImageLike",
    "ImageStoreStatus",
    "InternalError",
    "InvalidRequestError",
    "LiveOptions",
    "LiveStream",
    "Model",
    "NotFoundError",
    "ObjectStream",
    "Omission",
    "Options",
    "OverloadedError",
    "PermissionDeniedError",
    "Polygon",
    "Prompt",
    "Rewriting",
    "RewrittenPhrase",
    "Segmentation",
    "SegmentedObject",
    "ServerStatus",
    "Session",
    "StoredVideo",
    "StreamOptions",
    "TextOptions",
    "Tiling",
    "Timings",
    "TooLargeError",
    "TrackOptions",
    "TrackPrompt",
    "TrackedFrame",
    "TrackedObject",
    "UnauthenticatedError",
    "UnavailableError",
    "UnimplementedError",
    "UploadedImage",
    "VideoFrame",
    "VideoTrackOptions",
    "VideoTrackStream",
    "__version__",
]
