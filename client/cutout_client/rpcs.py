"""RPCs as values: what is asked, where, and how the answer is read. Both clients make them, and differ in waiting."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, ParamSpec, TypeVar

from cutout.v1 import image_pb2, image_service_pb2
from cutout_common import routing
from cutout_common.routing import Place
from google.protobuf.message import Message

from cutout_client.errors import NotFoundError
from cutout_client.images import Picture
from cutout_client.messages import build
from cutout_client.streams import Parts, whole, whole_async
from cutout_client.transport import Call, Stubs

T = TypeVar("T")
A = TypeVar("A", bound=Parts[Any])
P = ParamSpec("P")


@dataclass(frozen=True)
class Subject:
    """The picture that an RPC is about; it comes into the request when it is the call's turn.

    Attributes:
        picture: The picture.
        message: What names it by `image_id` once it is stored: the request, or the image in it.
        fill: Puts it into the request. Gives where that should go; or what to upload, when it is too large.
    """

    picture: Picture
    message: image_pb2.Image | image_service_pb2.RenderOverlayRequest
    fill: Callable[[Picture], Place | Picture]

    def name(self, image_id: str) -> Place:
        """Has the request name it; gives where that should go."""
        self.message.image_id = image_id
        return routing.by_id(image_id)

    def can_come_again(self, gone: NotFoundError) -> bool:
        """Whether it is the server that is gone which stored it, and it is at hand to be uploaded anew."""
        return gone.reason == routing.ELSEWHERE and self.picture.is_here


@dataclass(frozen=True)
class _Rpc:
    """What there is to any RPC.

    Attributes:
        method: A server's stub of it.
        request: Gives what is sent, anew for each try: one spends an iterator.
        place: Where it should go; None for where its call goes by its picture.
        subject: The picture that it is about, which is still to be put into the request.
        takes_turn: Whether it is one of the calls that `max_in_flight` counts.
    """

    method: Callable[[Stubs], Any]
    request: Callable[[], Any]
    place: Place | None = field(default=None, kw_only=True)
    subject: Subject | None = field(default=None, kw_only=True)
    takes_turn: bool = field(default=True, kw_only=True)

    def begin(self, stubs: Stubs, call: Call) -> Any:
        """Asks a server; gives what `grpc` or `grpc.aio` give for it."""
        return self.method(stubs)(self.request(), timeout=call.remaining_s(), metadata=call.metadata)


@dataclass(frozen=True)
class Unary(_Rpc, Generic[T]):
    """An RPC that one message answers.

    Attributes:
        read: Makes of the message, and of the request's id, what callers get.
    """

    read: Callable[[Any, str], T]

    def answer(self, stubs: Stubs, call: Call) -> T:
        """What a server answers."""
        return self.read(self.begin(stubs, call), call.request_id)

    async def answer_async(self, stubs: Stubs, call: Call) -> T:
        """The same, for asyncio."""
        return self.read(await self.begin(stubs, call), call.request_id)


@dataclass(frozen=True)
class Streamed(_Rpc, Generic[T, A]):
    """An RPC whose answer comes in many messages.

    Attributes:
        parts: Makes of the request's id what puts them together, anew for each try.
        is_endless: Whether it may take as long as it takes, unless the caller of this very call says how long.
    """

    parts: Callable[[str], A]
    is_endless: bool = field(default=False, kw_only=True)

    def answer(self, stubs: Stubs, call: Call) -> T:
        """All that a server answers."""
        answer: T = whole(self.begin(stubs, call), self.parts(call.request_id))
        return answer

    async def answer_async(self, stubs: Stubs, call: Call) -> T:
        """The same, for asyncio."""
        answer: T = await whole_async(self.begin(stubs, call), self.parts(call.request_id))
        return answer


Rpc = Unary[T] | Streamed[T, Any]


@dataclass(frozen=True)
class Row(Generic[P, T]):
    """A row of the table of plain RPCs; called with the fields of its request, it gives the RPC.

    Attributes:
        kind: The request's type.
        method: See `_Rpc`.
        read: Makes of the answer what callers get.
        place: Where a request should go; None for anywhere.
        called: What callers call the request's fields, where that is not their names.
    """

    kind: Callable[P, Message]
    method: Callable[[Stubs], Any]
    read: Callable[[Any], T]
    place: Callable[[Any], Place] | None = None
    called: Mapping[str, str] = field(default_factory=dict)

    def __call__(self, *_: P.args, **fields: P.kwargs) -> Unary[T]:
        """The RPC.

        Raises:
            TypeError: A value is of a type that its field does not take.
        """
        kind: Any = self.kind
        request = build(kind, self.called, **fields)
        place = self.place(request) if self.place else None
        return Unary(self.method, lambda: request, lambda answer, _: self.read(answer), place=place, takes_turn=False)
