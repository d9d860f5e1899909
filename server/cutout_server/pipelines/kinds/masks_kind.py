"""What all kinds of request share that make masks: how they are asked of parts of an image."""

from dataclasses import dataclass, replace
from typing import Self, TypeVar

from cutout_server import call_context
from cutout_server.pipelines.context import Context
from cutout_server.pipelines.kinds.kind import Kind
from cutout_server.pipelines.views import Views, put_together
from cutout_server.types import MasksRequest, SegmentedObject

M_co = TypeVar("M_co", bound=MasksRequest, covariant=True)


@dataclass(frozen=True)
class MasksKind(Kind[M_co]):
    """A kind that makes masks itself, of an image or of parts of it."""

    async def settled(self, _context: Context) -> Self:
        """This kind with what is decided once for all parts of the image, such as which phrases are looked for."""
        return self

    def in_views(self) -> Self:
        """This kind as one view is asked: without the options that apply to the objects of all views together."""
        options = replace(
            self.request.options,
            tiling=None,
            overlay=None,
            mask_formats=(),
            min_area=0,
            max_hole_area=0,
            min_part_area=0,
        )
        return replace(self, request=self.request.with_options(options))

    async def over_views(self, views: Views) -> list[SegmentedObject]:
        """The objects of all views, each once, with their masks at the image's size and nothing encoded."""
        seen = [(view, found) for view in range(len(views.tiles)) for found in await views.see(view, self)]
        context = views.context
        with call_context.stage("masks"):
            return await context.off_loop(put_together, seen, views.tiles, context.image, context.omissions)
