"""What every kind of request answers."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Generic, TypeVar

from cutout_server.catalogue import ModelSpec
from cutout_server.pipelines.candidates import Proposals
from cutout_server.pipelines.context import Context, SelectedModels, Shared
from cutout_server.types import Options, SegmentRequest

R_co = TypeVar("R_co", bound=SegmentRequest, covariant=True)


@dataclass(frozen=True)
class Kind(ABC, Generic[R_co]):
    """One kind of request. There is one object for each request; `kind_of` makes it.

    Attributes:
        request: What was asked.
    """

    request: R_co

    @property
    def options(self) -> Options:
        """What to make of the masks."""
        return self.request.options

    @property
    @abstractmethod
    def keeps_order(self) -> bool:
        """Whether objects come in their prompts' order, and may leave as they are made; else the best come first."""

    @abstractmethod
    def select_models(self, shared: Shared, segmenter: ModelSpec | None) -> SelectedModels:
        """Which models it needs, once it is known that they can do what it asks.

        Args:
            shared: The catalogue and the rewriter.
            segmenter: The session's, in a session.

        Raises:
            FailedPreconditionError: There are none.
            InvalidRequestError: It names one that there is not, or asks for what it cannot do.
        """

    @abstractmethod
    def needs_pixels(self, models: SelectedModels) -> bool:
        """Whether the image's embedding alone does not do."""

    @abstractmethod
    def default_nms_iou(self, models: SelectedModels) -> float:
        """For requests that name none; 1 keeps all."""

    @abstractmethod
    async def propose(self, context: Context) -> Proposals:
        """Does what comes before the first mask, and gives the candidates.

        Raises:
            CutoutError: The request does not fit the image, or a model refuses it.
        """
