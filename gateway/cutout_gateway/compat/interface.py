"""What a neighbouring system's HTTP interface consists of here: paths, requests as ours, answers as theirs."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from cutout_common.routing import ANYWHERE
from google.protobuf.message import Message
from starlette.datastructures import Headers

from cutout_gateway.placing import place_of
from cutout_gateway.request_reader import Read
from cutout_gateway.transcode import Payload

READY = "grpc.health.v1.Health.Check"
"""As the call of an `Ask`: nothing is asked but whether the server is ready."""
NOTHING = Read(b"", ANYWHERE)


@dataclass(frozen=True)
class Ask:
    """What a request comes to. It travels between processes: its functions are those of modules, or partials of them.

    Attributes:
        call: Full name of the RPC, or `READY`, or nothing at all.
        request: Of that RPC, and where it should go.
        answer: Makes the neighbour's JSON of the RPC's answer, None without one, and the request's id.
        names: The neighbour's names of our fields: each stands for the field and all that is below it.
        decodes: Whether `answer` unpacks the picture.
    """

    call: str
    request: Read
    answer: Callable[[Any, str], Any]
    names: Mapping[str, str] = field(default_factory=dict)
    decodes: bool = False

    @classmethod
    def of(cls, call: str, request: Message, answer: Callable[[Any, str], Any], **more: Any) -> "Ask":
        """One that makes an RPC of `cutout.v1`."""
        read = Read(request.SerializeToString(), place_of(request))
        return cls(f"cutout.v1.{call}", read, answer, **more)


@dataclass(frozen=True)
class Route:
    """One path.

    Attributes:
        method: GET or POST.
        path: As the neighbour documents it.
        read: Makes our request of the body; there is none with GET. It may run in another process.
        admits: Full name of the RPC that is asked whether the caller is let in, before a long body is read.
    """

    method: str
    path: str
    read: Callable[[Payload], Ask]
    admits: str = "cutout.v1.SegmentationService.SegmentByText"


@dataclass(frozen=True)
class Interface:
    """All paths of one neighbour.

    Attributes:
        name: As the setting has it.
        error: The body of an error: from its HTTP status, its text, and each wrong field with what was expected.
        status: Its HTTP status: from ours and the request's headers.
    """

    name: str
    routes: tuple[Route, ...]
    error: Callable[[int, str, list[tuple[str, str]]], Any]
    status: Callable[[int, Headers], int] = lambda status, _: status


def said(text: Any) -> Callable[[Payload], Ask]:
    """Reads a request that is always answered the same."""
    return lambda _: Ask("", NOTHING, lambda *_: text)


def ready(text: Any) -> Callable[[Payload], Ask]:
    """Reads a request that is answered so while the server is ready."""
    return lambda _: Ask(READY, NOTHING, lambda *_: text)
