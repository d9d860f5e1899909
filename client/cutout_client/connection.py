"""How to talk to a server: the arguments of both clients, and the channels that they describe."""

import json
from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass, field
from numbers import Integral, Real
from os import PathLike
from pathlib import Path
from types import NoneType
from typing import Any, TypedDict

import cutout_common
import grpc
from cutout_common import channels, reach
from cutout_common.address import check

from cutout_client.messages import of_type

DEFAULT_ADDRESS = "localhost:50051"
MAX_RETRIES = 4  # gRPC makes five attempts at most, whatever it is told

Pem = bytes | str | PathLike[str]
ChannelOptions = Sequence[tuple[str, Any]]


class ConnectionOptions(TypedDict, total=False):
    """How to talk to a server, beside its address; `Client` says what each means, `Connection` what stands for none."""

    api_key: str
    timeout_s: float | None
    retries: int
    tls: bool
    root_certificates: Pem | None
    client_certificate: Pem | None
    client_key: Pem | None
    channel_options: ChannelOptions
    max_in_flight: int


@dataclass(frozen=True)
class Connection:
    """The arguments of a client, looked over and with their defaults.

    Raises:
        TypeError: One is of another type.
        ValueError: They do not go together, or one is out of its range.
    """

    address: str = DEFAULT_ADDRESS
    _: KW_ONLY
    api_key: str = field(default="", repr=False)
    timeout_s: float | None = 60.0
    retries: int = 3
    tls: bool = False
    root_certificates: Pem | None = None
    client_certificate: Pem | None = None
    client_key: Pem | None = field(default=None, repr=False)
    channel_options: ChannelOptions = ()
    max_in_flight: int = 16  # enough to keep a device busy, and a quarter of the seats that a server has by default

    def __post_init__(self) -> None:
        of_type("address", self.address, str, "text")
        of_type("api_key", self.api_key, str, "text")
        of_type("timeout_s", self.timeout_s, (Real, NoneType), "a number of seconds, or None")
        of_type("retries", self.retries, Integral, "a whole number")
        of_type("max_in_flight", self.max_in_flight, Integral, "a whole number")
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
        return reach.Tls(_read_pem(self.root_certificates), self.client_certificate is not None)

    def _credentials(self) -> grpc.ChannelCredentials | None:
        """For a TLS channel; None for a plain one."""
        if not self.tls:
            return None
        return grpc.ssl_channel_credentials(
            _read_pem(self.root_certificates), _read_pem(self.client_key), _read_pem(self.client_certificate)
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


def _read_pem(pem: Pem | None) -> bytes | None:
    """The PEM itself."""
    return pem if pem is None or isinstance(pem, bytes) else Path(pem).read_bytes()
