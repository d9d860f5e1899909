"""What belongs to a call, and the RPCs of a server."""

import random
import sys
import time
from dataclasses import dataclass, field, replace
from numbers import Real
from types import NoneType
from typing import Any

from cutout.v1 import (
    generation_service_pb2_grpc,
    image_service_pb2_grpc,
    model_service_pb2_grpc,
    segmentation_service_pb2_grpc,
    tracking_service_pb2_grpc,
    video_service_pb2_grpc,
)
from cutout_common import request_ids
from cutout_common.failover import Losses
from cutout_common.fleet import Member
from cutout_common.routing import ANYWHERE, Place
from google.protobuf.wrappers_pb2 import Int32Value, StringValue

from cutout_client.connection import Connection
from cutout_client.errors import OverloadedError, UnavailableError
from cutout_client.messages import of_type

LOAD_TIMEOUT_S = 600.0  # reading gigabytes of weights takes a while
# Of callers who were told the same delay: a seat is held for them for longer than this makes them late.
SPREAD = 0.25
MIN_PAUSE_S = 0.05
_UNREACHED_PAUSE_S = 1.0


@dataclass
class Call:
    """One thing that the caller asked for, however many RPCs it takes.

    Attributes:
        connection: What it goes through.
        request_id: Sent as x-request-id; the server logs it and errors carry it.
        limit_s: Seconds that it may take; None for as long as the server lets it.
        is_own: Whether the caller gave this very call its limit, which then holds for waiting in the client, too.
        expires: When time is up, by the monotonic clock.
        place: Where it should go, once its picture is known.
        losses: How many servers were lost with it.
        member: The server that was asked last.
        had_its_turn: Whether it has been its turn, so that a stream which goes on elsewhere has no more time for that.
        waits_for_servers: Whether it is made again, while there is time, when no server can be reached.
    """

    connection: Connection
    request_id: str
    constant_metadata: tuple[tuple[str, str], ...]
    limit_s: float | None
    is_own: bool
    expires: float = 0.0
    place: Place = ANYWHERE
    losses: Losses = field(default_factory=Losses)
    member: Member | None = None
    had_its_turn: bool = False
    waits_for_servers: bool = False

    @classmethod
    def of(cls, connection: Connection, timeout_s: float | None, request_id: str) -> "Call":
        """Begins a call.

        Args:
            connection: What it goes through.
            timeout_s: Seconds that it may take; None for the connection's.
            request_id: Its id; empty for a new one.

        Raises:
            TypeError: The time is no number, or the id no text.
            ValueError: The id cannot be sent.
        """
        limit = connection.timeout_s if timeout_s is None else timeout_s
        of_type("timeout_s", limit, (Real, NoneType), "a number of seconds, or None")
        of_type("request_id", request_id, str, "text")
        if request_id and not request_ids.is_usable(request_id):
            raise ValueError(f"request_id must be {request_ids.EXPECTED}, not {request_id!r}")
        request_id = request_id or request_ids.new()
        key = (("x-api-key", connection.api_key),) if connection.api_key else ()
        metadata = ((request_ids.HEADER, request_id), *key, *_trace())
        call = cls(connection, request_id, metadata, limit, is_own=timeout_s is not None)
        call.expires = time.monotonic() + (limit or 0)
        return call

    @property
    def address(self) -> str:
        """Of the server that was asked last."""
        return self.member.address if self.member else ""

    @property
    def metadata(self) -> tuple[tuple[str, str], ...]:
        """Sent with each RPC."""
        return (*self.constant_metadata, *self.place.metadata)

    def next(self, limit_s: float | None) -> "Call":
        """What comes next in the same session, with time and losses of its own."""
        return replace(self, limit_s=limit_s, losses=Losses(), expires=time.monotonic() + (limit_s or 0))

    def patience_s(self) -> float | None:
        """Seconds for which it may wait for its turn; None for as long as that takes."""
        return self.remaining_s() if self.is_own else None

    def begin(self) -> None:
        """Its turn has come: the limit of a client's calls counts from here."""
        if not self.is_own and not self.had_its_turn:
            self.expires = time.monotonic() + (self.limit_s or 0)
        self.had_its_turn = True

    def remaining_s(self) -> float | None:
        """Seconds left; never negative, so that gRPC itself answers DEADLINE_EXCEEDED."""
        return None if self.limit_s is None else max(0.0, self.expires - time.monotonic())

    def pause_s(self, error: OverloadedError | UnavailableError) -> float | None:
        """Seconds to wait before a full server is asked again; None when that would be too late, or is not wanted.

        Likewise of one that cannot be reached.
        """
        wanted_s = error.retry_after_s
        if isinstance(error, UnavailableError):
            wanted_s = (wanted_s or _UNREACHED_PAUSE_S) if self.waits_for_servers else None
        if wanted_s is None or not self.connection.retries:
            return None
        pause = max(MIN_PAUSE_S, wanted_s) * random.uniform(1, 1 + SPREAD)  # noqa: S311  # no secret
        remaining = self.remaining_s()
        return pause if remaining is None or pause < remaining else None


class Stubs:
    """The RPCs of a channel, sync or asyncio."""

    def __init__(self, channel: Any) -> None:
        generated: Any = (
            segmentation_service_pb2_grpc,
            image_service_pb2_grpc,
            generation_service_pb2_grpc,
            model_service_pb2_grpc,
            tracking_service_pb2_grpc,
            video_service_pb2_grpc,
        )
        segmentation, images, generation, models, tracking, videos = generated  # grpc's generated code has no types
        self.segmentation = segmentation.SegmentationServiceStub(channel)
        self.images = images.ImageServiceStub(channel)
        self.generation = generation.GenerationServiceStub(channel)
        self.models = models.ModelServiceStub(channel)
        self.tracking = tracking.TrackingServiceStub(channel)
        self.videos = videos.VideoServiceStub(channel)
        # grpc.health.v1's messages hold one string and one enum: on the wire they are these well-known wrappers.
        self.health: Any = channel.unary_unary(
            "/grpc.health.v1.Health/Check",
            request_serializer=StringValue.SerializeToString,
            response_deserializer=Int32Value.FromString,
        )


def _trace() -> tuple[tuple[str, str], ...]:
    """The application's own span, for the server's to be below it; nothing is imported for it."""
    opentelemetry: Any = sys.modules.get("opentelemetry.trace")
    span = opentelemetry and opentelemetry.get_current_span().get_span_context()
    if not span or not span.is_valid:
        return ()
    return (("traceparent", f"00-{span.trace_id:032x}-{span.span_id:016x}-{span.trace_flags:02x}"),)
