"""How calls are made: channel settings, credentials, deadlines and retries, shared by both clients."""

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
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
)
from cutout_common import channels, request_ids
from cutout_common.address import check
from google.protobuf.wrappers_pb2 import Int32Value, StringValue

from cutout_client.errors import CutoutError, OverloadedError

DEFAULT_ADDRESS = "localhost:50051"
DEFAULT_TIMEOUT_S = 60.0
LOAD_TIMEOUT_S = 600.0  # reading gigabytes of weights takes a while
MAX_RETRIES = 4  # gRPC makes five attempts at most, whatever it is told

Pem = bytes | str | PathLike[str]
ChannelOptions = Sequence[tuple[str, Any]]


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

    def __post_init__(self) -> None:
        check(self.address)
        if not 0 <= self.retries <= MAX_RETRIES:
            raise ValueError(f"retries must be in [0, {MAX_RETRIES}], not {self.retries}")
        if (self.client_certificate is None) != (self.client_key is None):
            raise ValueError("client_certificate and client_key belong together")
        if not self.tls and (self.root_certificates or self.client_certificate):
            raise ValueError("certificates need tls=True")

    def credentials(self) -> grpc.ChannelCredentials | None:
        """For a TLS channel; None for a plain one."""
        if not self.tls:
            return None
        return grpc.ssl_channel_credentials(
            read_pem(self.root_certificates), read_pem(self.client_key), read_pem(self.client_certificate)
        )

    def arguments(self) -> list[tuple[str, Any]]:
        """The channel's arguments."""
        return [
            *self.channel_options,  # Of two values for one argument gRPC takes the first.
            ("grpc.primary_user_agent", f"cutout-python/{cutout_common.__version__}"),
            *channels.OPTIONS,
            ("grpc.enable_retries", int(self.retries > 0)),
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
        metadata = ((request_ids.HEADER, request_id), *((("x-api-key", self.api_key),) if self.api_key else ()))
        return Call(self, request_id, metadata, limit, time.monotonic() + (limit or 0), self.retries)

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


@dataclass(frozen=True)
class Call:
    """One thing that the caller asked for, however many RPCs it takes.

    Attributes:
        connection: What it goes through.
        request_id: Sent as x-request-id; the server logs it and errors carry it.
        metadata: Sent with each RPC.
        limit_s: Seconds that it may take; None for as long as the server lets it.
        expires: When time is up, by the monotonic clock.
        retries: How often a full server is asked again.
    """

    connection: Connection
    request_id: str
    metadata: tuple[tuple[str, str], ...]
    limit_s: float | None
    expires: float
    retries: int

    def remaining_s(self) -> float | None:
        """Seconds left; never negative, so that gRPC itself answers DEADLINE_EXCEEDED."""
        return None if self.limit_s is None else max(0.0, self.expires - time.monotonic())

    def retry_after_s(self, error: CutoutError, failures: int) -> float | None:
        """Seconds to wait before the next try; None when there should be none."""
        if not isinstance(error, OverloadedError) or error.retry_after_s is None or failures >= self.retries:
            return None
        delay = error.retry_after_s * 2**failures
        remaining = self.remaining_s()
        return delay if remaining is None or delay < remaining else None


class Stubs:
    """The RPCs of a channel, sync or asyncio."""

    def __init__(self, channel: Any) -> None:
        generated: Any = (
            segmentation_service_pb2_grpc,
            image_service_pb2_grpc,
            generation_service_pb2_grpc,
            model_service_pb2_grpc,
        )
        segmentation, images, generation, models = generated  # grpc's generated code has no types
        self.segmentation = segmentation.SegmentationServiceStub(channel)
        self.images = images.ImageServiceStub(channel)
        self.generation = generation.GenerationServiceStub(channel)
        self.models = models.ModelServiceStub(channel)
        # grpc.health.v1's messages hold one string and one enum: on the wire they are these well-known wrappers.
        self.health: Any = channel.unary_unary(
            "/grpc.health.v1.Health/Check",
            request_serializer=StringValue.SerializeToString,
            response_deserializer=Int32Value.FromString,
        )


def read_pem(pem: Pem | None) -> bytes | None:
    """The PEM itself."""
    return pem if pem is None or isinstance(pem, bytes) else Path(pem).read_bytes()
