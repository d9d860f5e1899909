"""Which kind a request is of. A new kind is a file beside this one and a line in `_KINDS`."""

from collections.abc import Callable
from typing import Any

from cutout_server.pipelines.kinds.analyze import Analyze
from cutout_server.pipelines.kinds.everything import Everything
from cutout_server.pipelines.kinds.kind import Kind
from cutout_server.pipelines.kinds.masks_kind import MasksKind
from cutout_server.pipelines.kinds.prompts import Prompts
from cutout_server.pipelines.kinds.text import Text
from cutout_server.pipelines.kinds.tiled import Tiled
from cutout_server.types import (
    AnalyzeRequest,
    EverythingRequest,
    MasksRequest,
    PromptsRequest,
    SegmentRequest,
    TextRequest,
)


def kind_of(request: SegmentRequest) -> Kind[SegmentRequest]:
    """The object that knows what a request means."""
    return _KINDS[type(request)](request)


def _in_tiles(kind: MasksKind[MasksRequest]) -> Kind[MasksRequest]:
    return Tiled(kind.request, kind) if kind.options.tiling else kind


_KINDS: dict[type[SegmentRequest], Callable[[Any], Kind[SegmentRequest]]] = {
    TextRequest: lambda request: _in_tiles(Text(request)),
    PromptsRequest: lambda request: _in_tiles(Prompts(request)),
    EverythingRequest: lambda request: _in_tiles(Everything(request)),
    AnalyzeRequest: lambda request: Analyze(request, kind_of(request.regions)),
}
