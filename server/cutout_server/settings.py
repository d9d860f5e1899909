"""Every setting of the server; each is used. Flag > environment (`CUTOUT_*`) > YAML file > default."""

import re
from enum import StrEnum
from hashlib import sha256
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

import httpx
from annotated_types import Len
from cutout_common import channels, traces
from cutout_common.config import Config
from cutout_common.distribution import install_hint
from cutout_common.status import ERRORS_PAGE, MAX_PAGE_BYTES
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    IPvAnyNetwork,
    SecretStr,
    field_serializer,
    field_validator,
    model_validator,
)
from pydantic_settings import SettingsConfigDict

from cutout_server.callers.quotas import Quotas
from cutout_server.models.runtime import Engine, Precision, check
from cutout_server.weights import parse
from cutout_server.zoo import PROFILES

MIB = 1024 * 1024
GIB = 1024 * MIB
LEAST_EMBEDDINGS_OF_WORKERS = 256 * MIB


class Role(StrEnum):
    """What a key may do beyond work on pictures."""

    OPERATOR = "operator"


class ModelSettings(BaseModel):
    """One model that requests may name."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,62}$", description="Name that requests use.")
    family: str = Field("", description="What it is built on; empty for one that `cutout models list --known` shows.")
    checkpoint: str | None = Field(
        None, description="The weights: a path, hub:owner/name[/file][@revision], or an address with #sha256=..."
    )
    companions: dict[str, str] = Field(
        default_factory=dict, description="Further files of the family, by the names that it gives them; likewise."
    )
    config: str | None = Field(None, description="Architecture: an official name, or a YAML file in the official form.")
    engine: Literal["", "auto", "eager", "compile", "openvino", "onnx"] = Field(
        "", description="What runs its encoder. Default: the server's engine."
    )
    precision: Literal["", "auto", "fp32", "bf16", "fp16", "int8"] = Field(
        "", description="What its encoder computes in. Default: the server's precision."
    )
    description: str = Field("", description="For people; shown by ListModels.")
    devices: tuple[str, ...] = Field((), description="Devices that may hold it. Default: every configured one.")

    @model_validator(mode="before")
    @classmethod
    def _of_a_name(cls, given: Any) -> Any:
        """A bare name stands for a known model."""
        return {"name": given} if isinstance(given, str) else given

    @field_validator("checkpoint")
    @classmethod
    def _source(cls, checkpoint: str | None) -> str | None:
        if checkpoint is not None:
            parse(checkpoint)
        return checkpoint

    @field_validator("companions")
    @classmethod
    def _sources(cls, companions: dict[str, str]) -> dict[str, str]:
        for source in companions.values():
            parse(source)
        return companions


class ApiKey(BaseModel):
    """A key, or the hash of one, and whose it is."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    caller: str = Field(pattern=r"^[A-Za-z0-9._-]{1,64}$", description="Shown in logs; owns the pictures it uploads.")
    key: SecretStr | None = Field(None, description="The secret itself: 16 or more printable ASCII characters.")
    sha256: str = Field(
        "", pattern=r"^([0-9a-f]{64})?$", description="Instead of the key: its SHA-256, as 64 hexadecimal digits."
    )
    roles: tuple[Role, ...] | None = Field(
        None,
        description="What it may do beyond work on pictures; `operator`: load and unload models, see the status. "
        "Default: nothing, but the keys of the only caller are an operator's.",
    )
    quotas: Quotas | None = Field(None, description="How much the caller may use, where that is not as `quotas` say.")

    @model_validator(mode="after")
    def _one_of_both(self) -> Self:
        if (self.key is None) == (not self.sha256):
            raise ValueError("expected either key or sha256")
        if self.key is not None and not re.fullmatch(r"[!-~]{16,}", self.key.get_secret_value()):
            raise ValueError("key: expected 16 or more printable ASCII characters without spaces")
        return self

    @field_serializer("quotas")
    def _those_that_are_set(self, quotas: Quotas | None) -> dict[str, float] | None:
        return None if quotas is None else quotas.model_dump(exclude_unset=True)

    @property
    def digest(self) -> bytes:
        """The SHA-256 of the key: 32 bytes."""
        return bytes.fromhex(self.sha256) if self.key is None else sha256(self.key.get_secret_value().encode()).digest()


BUILTIN = ModelSettings(
    name="builtin",
    family="builtin",
    description="A small network in the package for boxes and points; cascades and colour words for text.",
)


class Settings(Config):
    """Turns pictures and prompts into masks: the gRPC server."""

    FOREIGN_PREFIXES: ClassVar[tuple[str, ...]] = ("CUTOUT_GATEWAY_", "CUTOUT_CLIENT_")
    model_config = SettingsConfigDict(env_prefix="CUTOUT_", cli_prog_name="python -m cutout_server")

    host: str = Field("127.0.0.1", description="Address that the gRPC server binds.")
    port: int = Field(50051, ge=0, le=65535, description="Its port; 0 takes a free one.")
    metrics_host: str = Field("127.0.0.1", description="Address of the Prometheus metrics.")
    metrics_port: int = Field(9464, ge=-1, le=65535, description="Their port; 0 takes a free one, -1 turns them off.")
    admin_port: int = Field(
        -1, ge=-1, le=65535, description="Loopback port of channelz; 0 takes a free one, -1 is off."
    )
    reflection: bool = Field(True, description="Answer gRPC reflection.")
    tls_cert: Path | None = Field(None, description="PEM certificate chain; with tls_key it turns TLS on.")
    tls_key: Path | None = Field(None, description="PEM private key of tls_cert.")
    tls_client_ca: Path | None = Field(None, description="PEM authorities; with it, callers must show a certificate.")
    trusted_proxies: tuple[IPvAnyNetwork, ...] = Field(
        (),
        description="Addresses or networks of gateways and proxies that are believed when they say, by the metadata "
        "x-forwarded-for, whom a call comes from.",
    )
    api_keys: tuple[ApiKey, ...] = Field((), description="Keys that are let in; none means that everyone is.")
    quotas: Quotas = Field(Quotas(), description="How much of the server each caller may use.")

    profile: Literal["", "builtin", "small", "quality"] = Field(
        "", description="A set of models: builtin (no download), small, quality; `models` come on top of it."
    )
    models: Annotated[tuple[ModelSettings, ...], Len(min_length=1)] = Field(
        (BUILTIN,), description="Models that requests may name, in full, or by a name that Cutout knows."
    )
    weights_dir: Path = Field(Path("~/.cache/cutout"), description="Where downloaded weights are kept.")
    offline: bool = Field(False, description="Download nothing; HF_HUB_OFFLINE says the same.")
    hub_token: SecretStr = Field(SecretStr(""), description="Token for gated models. Default: HF_TOKEN.")
    hub_endpoint: str = Field("", description="Address of the model hub. Default: HF_ENDPOINT, or the official one.")
    default_segmenter: str = Field("", description="Segmenter of requests that name none. Default: the first one.")
    default_detector: str = Field("", description="Detector of requests that name none. Default: the first one.")
    default_text_segmenter: str = Field(
        "", description="Model that segments by text when there is no detector. Default: the first one."
    )
    default_classifier: str = Field("", description="Classifier of requests that name none. Default: the first one.")
    default_generator: str = Field("", description="Generator of requests that name none. Default: the first one.")
    engine: Literal["auto", "eager", "compile", "openvino", "onnx"] = Field(
        "auto", description="What runs the encoders of models that have a choice; auto is the fastest at hand."
    )
    precision: Literal["auto", "fp32", "bf16", "fp16", "int8"] = Field(
        "auto",
        description="What they compute in; auto is the fastest that keeps masks equal, fp32 is exact. "
        "Mask decoders follow bf16.",
    )
    preload: bool = Field(True, description="Load every model at start, as far as memory allows.")
    devices: Annotated[tuple[str, ...], Len(min_length=1)] = Field(
        ("cpu",), description="One pool each: cpu, cuda:0, cuda:1 ..."
    )
    cluster: Literal["", "ray"] = Field(
        "",
        description="Where models run: on this machine's devices, or, by `ray` (which `--engine ray` says, too), in "
        "workers of a Ray cluster, each with one device.",
    )
    ray_address: str = Field(
        "",
        pattern=r"^(auto|[^\s:/]+:\d+)?$",
        description="Where the cluster's head is, as host:6379, or auto on a node of it. Default: a cluster of this "
        "machine alone, that ends with the server.",
    )
    ray_min_workers: int = Field(1, ge=1, description="Workers that there always are.")
    ray_max_workers: int = Field(8, ge=1, description="Most that there are while many jobs wait.")
    ray_worker_cpus: float = Field(
        1.0, gt=0, description="Cores that each worker asks the cluster for, and threads that its models have."
    )
    ray_idle_s: float = Field(
        300.0, gt=0, description="A worker above the least number that was asked nothing for so long ends."
    )
    memory_budget_bytes: int = Field(
        0,
        ge=0,
        description="Bound on the memory of models and of what sessions remember of objects, per device; 0: none.",
    )
    embeddings_cache_bytes: int = Field(GIB, ge=0, description="Bound on the embeddings kept per device.")
    embeddings_cache_dtype: Literal["model", "bf16"] = Field(
        "model", description="How embeddings are kept: as the model makes them, or as bfloat16 in half of the memory."
    )
    answers_cache_bytes: int = Field(
        0, ge=0, description="Bound on the answers kept for equal requests of a caller; 0 is off."
    )
    answers_cache_ttl_s: float = Field(300.0, gt=0, description="An answer is kept so long.")
    max_requests_per_device: int = Field(64, ge=1, description="Requests admitted at once; more are turned away.")
    max_batch: int = Field(64, ge=1, description="Most prompts, or phrases' pictures, joined into one pass.")
    max_encode_batch: int = Field(4, ge=1, description="Most pictures joined into one pass of an encoder.")
    imaging_threads: int = Field(2, ge=1, description="Threads that decode pictures, and as many that encode answers.")
    decoding_processes: int = Field(
        3, ge=1, description="Processes for pictures that take long to decode; they begin when they are needed."
    )
    max_decode_s: int = Field(
        30,
        ge=1,
        description="Time of a processor after which such a picture, or a video's frame, is given up for good.",
    )
    video_processes: int = Field(
        4, ge=1, description="Processes that decode videos which objects are followed through; four of them share one."
    )

    max_message_bytes: int = Field(64 * MIB, ge=2 * MIB, description="Bound on one gRPC message, both ways.")
    max_image_bytes: int = Field(32 * MIB, ge=1024, description="Bound on a picture's file inside a request.")
    max_upload_bytes: int = Field(256 * MIB, ge=1024, description="Bound on an uploaded picture's file.")
    max_video_bytes: int = Field(GIB, ge=1024, description="Bound on an uploaded video's file.")
    max_video_pixels: int = Field(9_000_000, ge=1, description="Bound on the pixels of a video's frame: 4K.")
    max_video_frames: int = Field(108_000, ge=1, description="Bound on the frames of a video: an hour, 30 a second.")
    max_video_s: float = Field(7200.0, gt=0, description="Bound on its duration.")
    max_image_pixels: int = Field(120_000_000, ge=1, description="Bound on a picture's pixels, read before decoding.")
    max_pixels_in_hand: int = Field(
        600_000_000, ge=1, description="Bound on the decoded pixels of all requests together."
    )
    max_prompts: int = Field(256, ge=1, description="Bound on phrases, boxes or prompts in one request.")
    max_objects: int = Field(1000, ge=1, description="Bound on objects in one answer.")
    max_tracked_objects: int = Field(64, ge=1, description="Bound on the objects that one session follows.")
    max_tracking_bytes: int = Field(
        4 * GIB, ge=1, description="Bound on what sessions remember of the objects that they follow, on all devices."
    )
    max_tiles: int = Field(256, ge=1, description="Bound on the tiles of one picture, for requests that ask for them.")
    max_received_bytes: int = Field(
        GIB, ge=1, description="Bound on the messages of all calls that arrive or are in use; more wait, 10 s at most."
    )
    max_answer_bytes: int = Field(
        512 * MIB,
        ge=1,
        description="Bound on the answers that are made and not yet taken in by their callers; likewise.",
    )
    caller_share: float = Field(
        0.5,
        gt=0,
        le=1,
        description="Share of these, and of the calls, that one caller may have while there are others.",
    )
    max_calls: int = Field(1024, ge=1, description="Bound on the calls of all callers together.")
    max_sessions: int = Field(64, ge=1, description="Bound on the sessions among them.")
    max_connections: int = Field(1024, ge=1, description="Bound on the connections of all clients together.")
    max_header_bytes: int = Field(
        16 * 1024, ge=8 * 1024, description="Bound on the headers of a call; each counts 32 bytes beside its letters."
    )
    max_concurrent_streams: int = Field(256, ge=1, description="Bound on the calls of one connection.")
    min_ping_interval_s: float = Field(
        5.0,
        gt=0,
        le=channels.OFTEN_S,
        description="Connections that ping more often, with calls or without, are ended.",
    )
    ping_interval_s: float = Field(
        60.0, ge=1, description="A connection that is silent for so long is asked whether its client is there still."
    )
    max_connection_age_s: float = Field(
        0.0,
        ge=0,
        description="Clients connect anew after about so long, and so find servers that came later; 0: they need not.",
    )
    max_connection_age_grace_s: float = Field(
        3600.0, gt=0, description="Time that the calls of such a connection, and its sessions, have to finish."
    )
    default_deadline_s: float = Field(60.0, gt=0, description="Deadline of calls that bring none.")
    max_deadline_s: float = Field(600.0, gt=0, description="Calls that bring a later deadline get this one.")
    max_stall_s: float = Field(
        20.0,
        gt=0,
        description="A caller who takes in nothing of an answer for so long, and 1 s for each 64 KiB, has left.",
    )
    session_idle_s: float = Field(
        300.0, gt=0, description="A session without a prompt that can be answered for so long is ended."
    )
    drain_s: float = Field(30.0, ge=0, description="Time that accepted work has to finish after SIGTERM.")

    image_store_bytes: int = Field(2 * GIB, ge=0, description="Bound on the uploaded pictures' and videos' files.")
    image_store_images: int = Field(10_000, ge=0, description="Bound on their number.")
    image_store_dir: Path | None = Field(
        None, description="Where a folder for them is made. Default: the system's place for temporary files."
    )
    image_store_ttl_s: float = Field(3600.0, gt=0, description="An upload unused for so long is forgotten.")

    allow_uris: bool = Field(False, description="Fetch pictures from http(s) addresses that callers name.")
    uri_hosts: tuple[str, ...] = Field((), description="The only hosts to fetch from; none means any public one.")
    uri_timeout_s: float = Field(10.0, gt=0, description="Time for one fetch.")

    rewrite_url: str = Field(
        "", description="Base URL of the OpenAI-compatible API that rewrites phrases, as https://host/v1; empty is off."
    )
    rewrite_model: str = Field("", description="Name of its model.")
    rewrite_api_key: SecretStr = Field(SecretStr(""), description="Key sent to it; none unless given.")
    rewrite_timeout_s: float = Field(5.0, gt=0, description="Time that it has before the plain phrases are used.")

    trace_endpoint: str = Field(
        "", description="Collector of traces that speaks OTLP over gRPC, as http://host:4317; empty is off."
    )
    trace_share: float = Field(
        1.0, ge=0, le=1, description="Share of the requests that are traced, of those whose callers trace none."
    )
    log_format: Literal["json", "console"] = Field("json", description="Form of the log lines.")
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="Least level that is logged.")
    errors_page: str = Field(
        ERRORS_PAGE, max_length=MAX_PAGE_BYTES, description="Where errors' links lead, before #REASON. Empty: no links."
    )

    _endpoint = field_validator("trace_endpoint")(traces.check_endpoint)

    @model_validator(mode="before")
    @classmethod
    def _with_profile(cls, given: dict[str, Any]) -> dict[str, Any]:
        """The profile's models go first, the built-in one last; those that are given beside them take their place."""
        profile = given.get("profile")
        if not isinstance(profile, str) or profile not in PROFILES:
            return given
        models = [
            each if isinstance(each, ModelSettings) else ModelSettings.model_validate(each)
            for each in given.get("models", ())
        ]
        named = {model.name for model in models}
        first = [ModelSettings(name=name) for name in PROFILES[profile] if name not in named]
        last = [BUILTIN] if BUILTIN.name not in named else []
        return given | {"models": (*first, *models, *last)}

    @model_validator(mode="before")
    @classmethod
    def _with_cluster(cls, given: dict[str, Any]) -> dict[str, Any]:
        """The engine `ray` is the workers of a cluster, which choose what runs their encoders."""
        return given | {"engine": "auto", "cluster": "ray"} if given.get("engine") == "ray" else given

    @model_validator(mode="after")
    def _fit_together(self) -> Self:
        names = [model.name for model in self.models]
        if len(set(names)) != len(names):
            raise ValueError(f"models: each name once, got {names}")
        if len(set(self.devices)) != len(self.devices):
            raise ValueError(f"devices: each once, got {list(self.devices)}")
        for model in self.models:
            if unknown := set(model.devices) - set(self.devices):
                raise ValueError(f"models: {model.name} names devices that are not configured: {sorted(unknown)}")
        for field in (
            "default_segmenter",
            "default_detector",
            "default_text_segmenter",
            "default_classifier",
            "default_generator",
        ):
            if (name := getattr(self, field)) and name not in names:
                raise ValueError(f"{field}: expected one of {names}, got {name!r}")
        check(Engine(self.engine), Precision(self.precision))
        if self.max_pixels_in_hand < 2 * self.max_image_pixels:  # Half of them is for sessions at most.
            raise ValueError("max_pixels_in_hand: expected at least twice max_image_pixels")
        self._check_cluster()
        self._check_calls()
        _check_keys(self.api_keys)
        self._check_rewriting()
        return self

    def _check_cluster(self) -> None:
        """Raises ValueError unless what is said of a cluster fits together."""
        if not self.cluster:
            if self.ray_address:
                raise ValueError("ray_address: needs cluster to be ray")
            return
        if self.devices not in {("cpu",), ("cuda:0",)}:
            raise ValueError("devices: with a cluster, expected cpu or cuda:0, which is what each worker has")
        if self.ray_max_workers < self.ray_min_workers:
            raise ValueError("ray_max_workers: expected at least ray_min_workers")
        if self.embeddings_cache_bytes < LEAST_EMBEDDINGS_OF_WORKERS:  # Or every question would make its own again.
            raise ValueError(f"embeddings_cache_bytes: with a cluster, expected at least {LEAST_EMBEDDINGS_OF_WORKERS}")
        if find_spec("ray") is None:
            raise ValueError(f"cluster: needs the package 'ray': {install_hint('ray')}")

    def _check_calls(self) -> None:
        """Raises ValueError unless what is said of every call fits together."""
        for name in ("max_received_bytes", "max_answer_bytes"):
            if int(getattr(self, name) * self.caller_share) < self.max_message_bytes:
                raise ValueError(f"{name}: expected at least max_message_bytes / caller_share")
        if self.max_deadline_s < self.default_deadline_s:
            raise ValueError("max_deadline_s: expected at least default_deadline_s")
        if (self.tls_cert is None) != (self.tls_key is None):
            raise ValueError("tls_cert and tls_key: both or neither")
        if self.tls_client_ca and not self.tls_cert:
            raise ValueError("tls_client_ca: needs tls_cert and tls_key")

    def _check_rewriting(self) -> None:
        """Raises ValueError unless the language model's settings fit together; never repeats them."""
        if not self.rewrite_url:
            if self.rewrite_model or self.rewrite_api_key:
                raise ValueError("rewrite_model and rewrite_api_key: need rewrite_url")
            return
        try:
            url = httpx.URL(self.rewrite_url)
        except httpx.InvalidURL as error:
            raise ValueError("rewrite_url: expected an http or https address") from error
        if url.scheme not in {"http", "https"} or not url.host or url.userinfo or url.fragment:
            raise ValueError("rewrite_url: expected an http or https address without user name and fragment")
        if not self.rewrite_model:
            raise ValueError("rewrite_url: needs rewrite_model")
        if not re.fullmatch(r"[!-~]*", self.rewrite_api_key.get_secret_value()):
            raise ValueError("rewrite_api_key: expected printable ASCII without spaces")


def _check_keys(api_keys: tuple[ApiKey, ...]) -> None:
    owners: dict[bytes, str] = {}
    quotas: dict[str, Quotas | None] = {}
    for key in api_keys:
        if quotas.setdefault(key.caller, key.quotas) != key.quotas:
            raise ValueError(f"api_keys: the keys of {key.caller} have different quotas; they are the caller's")
        if owners.setdefault(key.digest, key.caller) != key.caller:
            raise ValueError(f"api_keys: {owners[key.digest]} and {key.caller} have the same key")
