"""What every kind of request is asked: for its plan, and for its candidates."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Generic, TypeVar

from cutout_server.catalogue import ModelSpec
from cutout_server.pipelines.candidates import Proposals
from cutout_server.pipelines.context import Context, Plan, Shared
from cutout_server.types import SegmentRequest

R_co = TypeVar("R_co", bound=SegmentRequest, covariant=True)


@dataclass(frozen=True)
class Kind(ABC, Generic[R_co]):
    """One kind of request. There is one object for each request; `kind_of` makes it.

    Attributes:
        request: What was asked.
    """

    request: R_co

    @abstractmethod
    def plan(self, shared: Shared, segmenter: ModelSpec | None) -> Plan:
        """Selects its models, which are known to do what it asks then, and says what follows from the selection.

        Args:
            shared: The catalogue and the rewriter.
            segmenter: The session's, in a session.

        Raises:
            FailedPreconditionError: There are none.
            InvalidRequestError: It names one that there is not, or asks for what it cannot do.
        """

    @abstractmethod
    async def propose(self, context: Context) -> Proposals:
        """Does what comes before the first mask, and gives the candidates.

        Raises:
            CutoutError: The request does not fit the image, or a model refuses it.
        """
