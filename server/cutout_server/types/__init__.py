"""What the server works with once a message has been decoded. All of it is frozen; arrays are not to be written to.

Axis order is (height, width); coordinates are (x, y) in absolute pixels of the upright picture, origin top left.
"""

from cutout_server.types.answers import (
    AnswerFacts as AnswerFacts,
)
from cutout_server.types.answers import (
    ConceptScore as ConceptScore,
)
from cutout_server.types.answers import (
    EncodedOverlay as EncodedOverlay,
)
from cutout_server.types.answers import (
    GeneratedPicture as GeneratedPicture,
)
from cutout_server.types.answers import (
    GenerationProgress as GenerationProgress,
)
from cutout_server.types.answers import (
    Omission as Omission,
)
from cutout_server.types.answers import (
    OmissionReason as OmissionReason,
)
from cutout_server.types.answers import (
    Rewriting as Rewriting,
)
from cutout_server.types.answers import (
    RewrittenPhrase as RewrittenPhrase,
)
from cutout_server.types.answers import (
    SegmentedObject as SegmentedObject,
)
from cutout_server.types.images import (
    FileImage as FileImage,
)
from cutout_server.types.images import (
    ImageSource as ImageSource,
)
from cutout_server.types.images import (
    Picture as Picture,
)
from cutout_server.types.images import (
    RgbImage as RgbImage,
)
from cutout_server.types.images import (
    StoredFrame as StoredFrame,
)
from cutout_server.types.images import (
    StoredImage as StoredImage,
)
from cutout_server.types.images import (
    TensorImage as TensorImage,
)
from cutout_server.types.images import (
    UriImage as UriImage,
)
from cutout_server.types.masks import (
    LOW_RES as LOW_RES,
)
from cutout_server.types.masks import (
    BitMask as BitMask,
)
from cutout_server.types.masks import (
    BoolMask as BoolMask,
)
from cutout_server.types.masks import (
    Box as Box,
)
from cutout_server.types.masks import (
    EncodedMask as EncodedMask,
)
from cutout_server.types.masks import (
    Logits as Logits,
)
from cutout_server.types.masks import (
    MaskPatch as MaskPatch,
)
from cutout_server.types.masks import (
    PngMask as PngMask,
)
from cutout_server.types.masks import (
    Polygon as Polygon,
)
from cutout_server.types.masks import (
    PolygonMask as PolygonMask,
)
from cutout_server.types.masks import (
    Rle as Rle,
)
from cutout_server.types.models import (
    Features as Features,
)
from cutout_server.types.models import (
    ModelFiles as ModelFiles,
)
from cutout_server.types.models import (
    Task as Task,
)
from cutout_server.types.requests import (
    AnalyzeRequest as AnalyzeRequest,
)
from cutout_server.types.requests import (
    EverythingRequest as EverythingRequest,
)
from cutout_server.types.requests import (
    Exemplar as Exemplar,
)
from cutout_server.types.requests import (
    GenerateRequest as GenerateRequest,
)
from cutout_server.types.requests import (
    MaskFormat as MaskFormat,
)
from cutout_server.types.requests import (
    MasksRequest as MasksRequest,
)
from cutout_server.types.requests import (
    ObjectPrompt as ObjectPrompt,
)
from cutout_server.types.requests import (
    Options as Options,
)
from cutout_server.types.requests import (
    OverlayFormat as OverlayFormat,
)
from cutout_server.types.requests import (
    PromptFields as PromptFields,
)
from cutout_server.types.requests import (
    PromptsRequest as PromptsRequest,
)
from cutout_server.types.requests import (
    SegmentRequest as SegmentRequest,
)
from cutout_server.types.requests import (
    Strategy as Strategy,
)
from cutout_server.types.requests import (
    TextRequest as TextRequest,
)
from cutout_server.types.requests import (
    Tiling as Tiling,
)
from cutout_server.types.tracking import (
    CorrectionRequest as CorrectionRequest,
)
from cutout_server.types.tracking import (
    Direction as Direction,
)
from cutout_server.types.tracking import (
    DropPolicy as DropPolicy,
)
from cutout_server.types.tracking import (
    FoundObject as FoundObject,
)
from cutout_server.types.tracking import (
    FoundObjects as FoundObjects,
)
from cutout_server.types.tracking import (
    FramePrompt as FramePrompt,
)
from cutout_server.types.tracking import (
    FrameRequest as FrameRequest,
)
from cutout_server.types.tracking import (
    TrackedFrame as TrackedFrame,
)
from cutout_server.types.tracking import (
    TrackedObject as TrackedObject,
)
from cutout_server.types.tracking import (
    TrackingRequest as TrackingRequest,
)
from cutout_server.types.tracking import (
    VideoPrompt as VideoPrompt,
)
from cutout_server.types.tracking import (
    VideoTrackRequest as VideoTrackRequest,
)
