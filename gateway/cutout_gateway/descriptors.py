"""The contracts as the gateway sees them: a descriptor set, its HTTP rules and its comments."""

from collections.abc import Iterator
from dataclasses import dataclass
from importlib import resources
from typing import Any

from google.api import annotations_pb2
from google.api.http_pb2 import HttpRule
from google.protobuf.descriptor import Descriptor
from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    EnumDescriptorProto,
    FileDescriptorProto,
    FileDescriptorSet,
    ServiceDescriptorProto,
)
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from google.rpc import error_details_pb2, status_pb2

HTTP_BODY = "google.api.HttpBody"

Path = tuple[int, ...]


class ContractError(Exception):
    """The contracts cannot be served over HTTP; the text names the RPC and the reason."""


@dataclass(frozen=True)
class Rpc:
    """One RPC that has HTTP rules.

    Attributes:
        service: Full name of its service.
        name: Its own name.
        rules: Its HTTP rules: the main one, then the additional bindings.
    """

    service: str
    name: str
    input: Descriptor
    output: Descriptor
    client_streaming: bool
    server_streaming: bool
    rules: tuple[HttpRule, ...]

    @property
    def full_name(self) -> str:
        """Package, service and RPC joined by dots, as comments are looked up."""
        return f"{self.service}.{self.name}"

    @property
    def path(self) -> str:
        """The `:path` of the call in HTTP/2."""
        return f"/{self.service}/{self.name}"


class Contract:
    """A descriptor set in a pool of its own.

    Attributes:
        descriptor_set: The set.
        pool: Resolves every type of the set, and those of google.rpc's error details.
        rpcs: Those with an HTTP rule, in the order of the files.
        comments: Leading comments by full name; those of an enum's values are under `<enum>.<VALUE>`.
    """

    def __init__(self, descriptor_set: FileDescriptorSet) -> None:
        self.descriptor_set = descriptor_set
        self.pool = DescriptorPool()
        self.comments: dict[str, str] = {}
        for file in descriptor_set.file:
            self.pool.AddSerializedFile(file.SerializeToString())
            self.comments.update(_comments(file))
        present = {file.name for file in descriptor_set.file}
        for module in (status_pb2, error_details_pb2):
            _add_missing(self.pool, module.DESCRIPTOR, present)
        self.rpcs = tuple(
            rpc for file in descriptor_set.file for service in file.service for rpc in self._rpcs(file, service)
        )

    @classmethod
    def load(cls) -> "Contract":
        """Reads the descriptor set that the build put beside the stubs."""
        data = resources.files("cutout.v1").joinpath("descriptors.binpb").read_bytes()
        return cls(FileDescriptorSet.FromString(data))

    def message(self, full_name: str) -> Message:
        """An empty message of a type of the pool.

        Raises:
            KeyError: There is no such type.
        """
        found: Message = GetMessageClass(self.pool.FindMessageTypeByName(full_name))()
        return found

    def _rpcs(self, file: FileDescriptorProto, service: ServiceDescriptorProto) -> Iterator[Rpc]:
        service_name = f"{file.package}.{service.name}".lstrip(".")
        for method in service.method:
            rule = method.options.Extensions[annotations_pb2.http]
            if not rule.WhichOneof("pattern"):
                continue
            rpc = Rpc(
                service=service_name,
                name=method.name,
                input=self.pool.FindMessageTypeByName(method.input_type.lstrip(".")),
                output=self.pool.FindMessageTypeByName(method.output_type.lstrip(".")),
                client_streaming=method.client_streaming,
                server_streaming=method.server_streaming,
                rules=(rule, *rule.additional_bindings),
            )
            if rpc.client_streaming and rpc.server_streaming:
                raise ContractError(f"{rpc.full_name}: a bidirectional stream cannot have an HTTP rule")
            yield rpc


def _add_missing(pool: DescriptorPool, file: Any, present: set[str]) -> None:
    if file.name in present:
        return
    present.add(file.name)
    for dependency in file.dependencies:
        _add_missing(pool, dependency, present)
    pool.AddSerializedFile(file.serialized_pb)


def _comments(file: FileDescriptorProto) -> dict[str, str]:
    names = dict(_names(file))
    return {
        names[path]: "\n".join(line.removeprefix(" ") for line in location.leading_comments.strip("\n").split("\n"))
        for location in file.source_code_info.location
        if location.leading_comments and (path := tuple(location.path)) in names
    }


def _names(file: FileDescriptorProto) -> Iterator[tuple[Path, str]]:
    # The numbers are those of the fields in descriptor.proto: a location's path is made of them.
    prefix = f"{file.package}." if file.package else ""
    for i, message in enumerate(file.message_type):
        yield from _message_names((4, i), f"{prefix}{message.name}", message)
    for i, enum in enumerate(file.enum_type):
        yield from _enum_names((5, i), f"{prefix}{enum.name}", enum)
    for i, service in enumerate(file.service):
        yield (6, i), f"{prefix}{service.name}"
        for j, method in enumerate(service.method):
            yield (6, i, 2, j), f"{prefix}{service.name}.{method.name}"


def _message_names(path: Path, name: str, message: DescriptorProto) -> Iterator[tuple[Path, str]]:
    yield path, name
    for i, field in enumerate(message.field):
        yield (*path, 2, i), f"{name}.{field.name}"
    for i, oneof in enumerate(message.oneof_decl):
        yield (*path, 8, i), f"{name}.{oneof.name}"
    for i, nested in enumerate(message.nested_type):
        yield from _message_names((*path, 3, i), f"{name}.{nested.name}", nested)
    for i, enum in enumerate(message.enum_type):
        yield from _enum_names((*path, 4, i), f"{name}.{enum.name}", enum)


def _enum_names(path: Path, name: str, enum: EnumDescriptorProto) -> Iterator[tuple[Path, str]]:
    yield path, name
    for i, value in enumerate(enum.value):
        yield (*path, 2, i), f"{name}.{value.name}"
