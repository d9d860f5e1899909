"""What the server works with once a message has been decoded. All of it is frozen; arrays are not to be written to.

Axis order is (height, width); coordinates are (x, y) in absolute pixels of the upright picture, origin top left.
"""

# Sorted by ruff, each name would take a statement of three lines.
# isort: skip_file

from cutout_server.types.answers import (
    AnswerFacts as AnswerFacts,
    ConceptScore as ConceptScore,
    EncodedOverlay as EncodedOverlay,
    GeneratedPicture as GeneratedPicture,
    GenerationProgress as GenerationProgress,
    Omission as Omission,
    OmissionReason as OmissionReason,
    Rewriting as Rewriting,
    RewrittenPhrase as RewrittenPhrase,
    SegmentedObject as SegmentedObject,
)
from cutout_server.types.images import (
    FileImage as FileImage,
    ImageSource as ImageSource,
    Picture as Picture,
    RgbImage as RgbImage,
    StoredFrame as StoredFrame,
    StoredImage as StoredImage,
    TensorImage as TensorImage,
    UriImage as UriImage,
)
from cutout_server.types.masks import (
    LOW_RES as LOW_RES,
    BitMask as BitMask,
    BoolMask as BoolMask,
    Box as Box,
    EncodedMask as EncodedMask,
    Logits as Logits,
    MaskPatch as MaskPatch,
    PngMask as PngMask,
    Polygon as Polygon,
    PolygonMask as PolygonMask,
    Rle as Rle,
)
from cutout_server.types.models import (
    Features as Features,
    ModelFiles as ModelFiles,
    Task as Task,
)
from cutout_server.types.requests import (
    AnalyzeRequest as AnalyzeRequest,
    EverythingRequest as EverythingRequest,
    Exemplar as Exemplar,
    GenerateRequest as GenerateRequest,
    MaskFormat as MaskFormat,
    MasksRequest as MasksRequest,
    ObjectPrompt as ObjectPrompt,
    Options as Options,
    OverlayFormat as OverlayFormat,
    PromptFields as PromptFields,
    PromptsRequest as PromptsRequest,
    SegmentRequest as SegmentRequest,
    Strategy as Strategy,
    TextRequest as TextRequest,
    Tiling as Tiling,
)
from cutout_server.types.tracking import (
    CorrectionRequest as CorrectionRequest,
    Direction as Direction,
    DropPolicy as DropPolicy,
    FoundObject as FoundObject,
    FoundObjects as FoundObjects,
    FramePrompt as FramePrompt,
    FrameRequest as FrameRequest,
    LiveRequest as LiveRequest,
    TrackedFrame as TrackedFrame,
    TrackedObject as TrackedObject,
    TrackingRequest as TrackingRequest,
    VideoPrompt as VideoPrompt,
    VideoTrackRequest as VideoTrackRequest,
)
