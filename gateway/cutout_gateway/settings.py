"""Every setting of the gateway; each is used. Flag > environment (`CUTOUT_GATEWAY_*`) > YAML file > default."""

import re
from typing import Literal, Self

from cutout_common import traces
from cutout_common.address import check
from cutout_common.config import Config
from cutout_common.forwarded import X_FORWARDED_FOR
from cutout_common.status import ERRORS_PAGE, MAX_PAGE_BYTES
from pydantic import Field, FilePath, IPvAnyNetwork, field_validator, model_validator
from pydantic_settings import SettingsConfigDict
from starlette.datastructures import URL

MIB = 1024 * 1024
GIB = 1024 * MIB


class GatewaySettings(Config):
    """Speaks HTTP and JSON for a gRPC server: the REST gateway."""

    model_config = SettingsConfigDict(env_prefix="CUTOUT_GATEWAY_", cli_prog_name="python -m cutout_gateway")

    host: str = Field("127.0.0.1", description="Address that the gateway binds.")
    port: int = Field(8080, ge=0, le=65535, description="Its port; 0 takes a free one.")
    tls_cert: FilePath | None = Field(None, description="PEM certificate chain; with tls_key it turns HTTPS on.")
    tls_key: FilePath | None = Field(None, description="PEM private key of tls_cert.")

    server_address: str = Field(
        "127.0.0.1:50051",
        description="Where the gRPC server is; several with commas between them, or dns:///NAME:PORT for a name's.",
    )
    server_tls_ca: FilePath | None = Field(None, description="PEM authorities of the server; it turns TLS on.")
    server_tls_cert: FilePath | None = Field(None, description="PEM certificate to show to a server that asks for one.")
    server_tls_key: FilePath | None = Field(None, description="PEM private key of server_tls_cert.")

    default_timeout_s: float = Field(60.0, gt=0, description="Deadline of calls that bring no Grpc-Timeout.")
    ready_timeout_s: float = Field(1.0, gt=0, description="Time that the server has to answer for /readyz.")
    keep_alive_s: int = Field(
        75, ge=1, description="An idle connection is kept so long; longer than a load balancer in front keeps it."
    )
    headers_timeout_s: float = Field(20.0, gt=0, description="Time that a client has for the headers of a request.")
    min_body_bytes_per_s: int = Field(
        1024, ge=1, description="A body that comes more slowly, beyond a first 20 s, is given up; see max_stall_s."
    )
    max_stall_s: float = Field(
        20.0,
        gt=0,
        description="A client who takes in less than min_body_bytes_per_s of an answer for so long has left.",
    )
    max_connections: int = Field(4000, ge=1, description="Bound on the connections of all clients together.")
    max_connections_per_client: int = Field(1000, ge=1, description="Bound on the connections of one address.")
    trusted_proxies: tuple[IPvAnyNetwork, ...] = Field(
        (), description="Addresses or networks of proxies that are believed when they say whom a request comes from."
    )
    proxy_header: Literal["x-forwarded-for", "forwarded"] = Field(
        X_FORWARDED_FOR, description="The header by which they say so; the other one is not looked at."
    )
    drain_s: float = Field(30.0, gt=0, description="Time that accepted requests have to finish after SIGTERM.")
    max_body_bytes: int = Field(64 * MIB, ge=1024, description="Bound on a request's body that is held in memory.")
    max_received_bytes: int = Field(
        GIB, ge=1, description="Bound on the bodies that the server does not have yet; more wait, 10 s at most."
    )
    max_answer_bytes: int = Field(
        512 * MIB, ge=1, description="Bound on the answers that clients have not taken in yet; more are refused."
    )
    client_share: float = Field(
        0.5, gt=0, le=1, description="Share of these that one key may have, or one address without a key."
    )
    max_upload_bytes: int = Field(GIB, ge=1024, description="Bound on a body that is passed on in pieces.")
    cors_origins: tuple[str, ...] = Field((), description="Origins whose pages may call; '*' is every one. None: off.")

    compat: tuple[str, ...] = Field(
        (),
        description="Interfaces of other systems to speak as well, for their clients: segmentation-app, paligemma-api, "
        "generate-analyze, sagemaker, perceptra-seg. NAME=/PREFIX puts a prefix before its paths. None: off.",
    )

    metrics: bool = Field(True, description="Answer Prometheus at /metrics.")
    trace_endpoint: str = Field(
        "", description="Collector of traces that speaks OTLP over gRPC, as http://host:4317; empty is off."
    )
    trace_share: float = Field(
        1.0, ge=0, le=1, description="Share of the requests that are traced, of those whose callers trace none."
    )
    log_format: Literal["json", "console"] = Field("json", description="Form of the log lines.")
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="Least level that is logged.")
    errors_page: str = Field(
        ERRORS_PAGE,
        max_length=MAX_PAGE_BYTES,
        description="Where the links of the gateway's own errors lead, before #REASON. Empty: no links.",
    )

    _endpoint = field_validator("trace_endpoint")(traces.check_endpoint)

    @field_validator("server_address")
    @classmethod
    def _address_only(cls, address: str) -> str:
        return check(address)

    @field_validator("cors_origins")
    @classmethod
    def _origins_only(cls, origins: tuple[str, ...]) -> tuple[str, ...]:
        for origin in origins:
            if origin != "*" and origin != "{0.scheme}://{0.netloc}".format(URL(origin)):
                raise ValueError(f"expected '*' or scheme://host[:port], got {origin!r}")
        return origins

    @field_validator("compat")
    @classmethod
    def _prefixes_only(cls, entries: tuple[str, ...]) -> tuple[str, ...]:
        for entry in entries:
            if not re.fullmatch(r"[a-z-]+(=(/[A-Za-z0-9._~-]+)+)?", entry):
                raise ValueError(f"expected NAME or NAME=/PREFIX, got {entry!r}")
        return entries

    @model_validator(mode="after")
    def _fit_together(self) -> Self:
        if int(self.max_received_bytes * self.client_share) < self.max_body_bytes:
            raise ValueError("max_received_bytes: expected at least max_body_bytes / client_share")
        if (self.tls_cert is None) != (self.tls_key is None):
            raise ValueError("tls_cert and tls_key: both or neither")
        if (self.server_tls_cert is None) != (self.server_tls_key is None):
            raise ValueError("server_tls_cert and server_tls_key: both or neither")
        if self.server_tls_cert and not self.server_tls_ca:
            raise ValueError("server_tls_cert: needs server_tls_ca")
        return self
