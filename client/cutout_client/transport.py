"""How calls are made: channel settings, credentials, deadlines and retries, shared by both clients."""

import json
import random
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from os import PathLike
from pathlib import Path
from typing import Any

import cutout_common
import grpc
from cutout.v1 import (
    generation_service_pb2_grpc,
    image_service_pb2_grpc,
    model_service_pb2_grpc,
    segmentation_service_pb2_grpc,
    tracking_service_pb2_grpc,
    video_service_pb2_grpc,
)
from cutout_common import channels, reach, request_ids
from cutout_common.address import check
from cutout_common.failover import Losses
from cutout_common.fleet import Member
from cutout_common.routing import ANYWHERE, Place
from google.protobuf.wrappers_pb2 import Int32Value, StringValue

from cutout_client.errors import OverloadedError

DEFAULT_ADDRESS = "localhost:50051"
DEFAULT_TIMEOUT_S = 60.0
LOAD_TIMEOUT_S = 600.0  # reading gigabytes of weights takes a while
MAX_RETRIES = 4  # gRPC makes five attempts at most, whatever it is told
MAX_IN_FLIGHT = 16  # enough to keep a device busy, and a quarter of the seats that a server has by default
# Of callers who were told the same delay: a seat is held for them for longer than this makes them late.
SPREAD = 0.25
MIN_PAUSE_S = 0.05

Pem = bytes | str | PathLike[str]
ChannelOptions = Sequence[tuple[str, Any]]


def _trace() -> tuple[tuple[str, str], ...]:
    """The application's own span, for the server's to be below it; nothing is imported for it."""
    opentelemetry: Any = sys.modules.get("opentelemetry.trace")
    span = opentelemetry and opentelemetry.get_current_span().get_span_context()
    if not span or not span.is_valid:
        return ()
    return (("traceparent", f"00-{span.trace_id:032x}-{span.span_id:016x}-{span.trace_flags:02x}"),)


@dataclass(frozen=True)
class Connection:
    """How to talk to a server; the fields are the arguments of `Client`."""

    address: str = DEFAULT_ADDRESS
    api_key: str = ""
    timeout_s: float | None = DEFAULT_TIMEOUT_S
    retries: int = 3
    tls: bool = False
    root_certificates: Pem | None = None
    client_certificate: Pem | None = None
    client_key: Pem | None = None
    channel_options: ChannelOptions = ()
    max_in_flight: int = MAX_IN_FLIGHT

    def __post_init__(self) -> None:
        check(self.address)
        if self.max_in_flight < 1:
            raise ValueError(f"max_in_flight must be at least 1, not {self.max_in_flight}")
        if not 0 <= self.retries <= MAX_RETRIES:
            raise ValueError(f"retries must be in [0, {MAX_RETRIES}], not {self.retries}")
        if (self.client_certificate is None) != (self.client_key is None):
            raise ValueError("client_certificate and client_key belong together")
        if not self.tls and (self.root_certificates or self.client_certificate):
            raise ValueError("certificates need tls=True")

    def channel(self, library: Any, address: str, *, host: str, are_many: bool) -> Any:
        """A new channel of `grpc` or `grpc.aio`.

        Args:
            library: Either.
            address: Of the server.
            host: By which name it is known, if not by its address.
            are_many: Whether it is one of several, of which the next one is tried instead of the same one again.
        """
        credentials, arguments = self._credentials(), self._arguments(host, are_many=are_many)
        if credentials:
            return library.secure_channel(address, credentials, arguments)
        return library.insecure_channel(address, arguments)

    def identity(self) -> reach.Tls | None:
        """How the server is known; None without TLS."""
        if not self.tls:
            return None
        return reach.Tls(read_pem(self.root_certificates), self.client_certificate is not None)

    def _credentials(self) -> grpc.ChannelCredentials | None:
        """For a TLS channel; None for a plain one."""
        if not self.tls:
            return None
        return grpc.ssl_channel_credentials(
            read_pem(self.root_certificates), read_pem(self.client_key), read_pem(self.client_certificate)
        )

    def _arguments(self, host: str, *, are_many: bool) -> list[tuple[str, Any]]:
        """The channel's arguments."""
        return [
            *self.channel_options,  # Of two values for one argument gRPC takes the first.
            ("grpc.primary_user_agent", f"cutout-python/{cutout_common.__version__}"),
            *([("grpc.default_authority", host)] if host else []),
            *(channels.OF_MANY if are_many else channels.OPTIONS),
            ("grpc.enable_retries", int(self.retries > 0 and not are_many)),
            # A call is only tried again while all that was sent is still at hand; 256 KiB, the default, is no picture.
            ("grpc.per_rpc_retry_buffer_size", 64 * 2**20),
            ("grpc.service_config", json.dumps({"methodConfig": [self._method_config()]})),
        ]

    def call(self, timeout_s: float | None, request_id: str) -> "Call":
        """Begins a call, with everything that belongs to it: uploads and further tries."""
        limit = self.timeout_s if timeout_s is None else timeout_s
        if request_id and not request_ids.is_usable(request_id):
            raise ValueError(f"request_id must be {request_ids.EXPECTED}, not {request_id!r}")
        request_id = request_id or request_ids.new()
        key = (("x-api-key", self.api_key),) if self.api_key else ()
        metadata = ((request_ids.HEADER, request_id), *key, *_trace())
        call = Call(self, request_id, metadata, limit, is_own=timeout_s is not None)
        call.expires = time.monotonic() + (limit or 0)
        return call

    def _method_config(self) -> dict[str, Any]:
        config: dict[str, Any] = {"name": [{}]}  # every method
        if self.retries:
            config["retryPolicy"] = {
                "maxAttempts": self.retries + 1,
                "initialBackoff": "0.2s",
                "maxBackoff": "5s",
                "backoffMultiplier": 3,
                "retryableStatusCodes": ["UNAVAILABLE"],
            }
        return config


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

    def pause_s(self, error: OverloadedError) -> float | None:
        """Seconds to wait before a full server is asked again; None when that would be too late, or is not wanted."""
        if error.retry_after_s is None or not self.connection.retries:
            return None
        pause = max(MIN_PAUSE_S, error.retry_after_s) * random.uniform(1, 1 + SPREAD)  # noqa: S311  # no secret
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


def read_pem(pem: Pem | None) -> bytes | None:
    """The PEM itself."""
    return pem if pem is None or isinstance(pem, bytes) else Path(pem).read_bytes()
