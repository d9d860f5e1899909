"""The API's reference, a page for each contract: services, messages and enums with their comments, all linked."""

import html
import re
from collections.abc import Iterator

from cutout_gateway.descriptors import Contract
from cutout_gateway.schemas import is_required
from google.api import annotations_pb2
from google.protobuf.descriptor import (
    Descriptor,
    EnumDescriptor,
    FieldDescriptor,
    FileDescriptor,
    MethodDescriptor,
    ServiceDescriptor,
)
from google.protobuf.descriptor_pb2 import FieldDescriptorProto, FileDescriptorProto

PACKAGE = "cutout.v1"
# Of files, in the order of the navigation.
TITLES = {
    "segmentation_service": "Segmentation",
    "segmentation": "Options and answers",
    "mask": "Masks, boxes, points",
    "image": "Images",
    "image_service": "Stored images",
    "model_service": "Models and status",
    "tracking_service": "Tracking",
    "generation_service": "Pictures from words",
    "routing": "Routing",
}
CODE = re.compile(r"(`[^`]*`)")
NAME = re.compile(r"\b[A-Z][A-Za-z]+(?:\.[A-Z][A-Za-z]+|\.[a-z_]+)?\b")


def files(contract: Contract) -> list[FileDescriptorProto]:
    """The contracts' own files: those that have a title in its order, then others."""
    own = [file for file in contract.descriptor_set.file if file.package == PACKAGE]
    return sorted(own, key=lambda file: [*TITLES, name(file)].index(name(file)))


def name(file: FileDescriptorProto) -> str:
    """Such as `image_service`."""
    return file.name.rpartition("/")[2].removesuffix(".proto")


def title(file: FileDescriptorProto) -> str:
    """What the navigation calls a file."""
    return TITLES.get(name(file), name(file).replace("_", " ").capitalize())


def pages(contract: Contract) -> dict[str, str]:
    """Markdown by path below the reference's folder."""
    writer = _Writer(contract)
    made = {f"{name(file)}.md": "\n".join(writer.file(file)) for file in files(contract)}
    return {"index.md": "\n".join(writer.index()), **made}


class _Writer:
    """Knows where each message, enum and RPC is described."""

    def __init__(self, contract: Contract) -> None:
        self._contract = contract
        self._descriptors = {name(f): contract.pool.FindFileByName(f.name) for f in files(contract)}
        self._places: dict[str, str] = {}
        for page, file in self._descriptors.items():
            for each in (*_messages(file), *_enums(file), *file.services_by_name.values()):
                self._places[_short(each)] = f"{page}.md#{_short(each)}"
                for method in getattr(each, "methods", ()):
                    self._places[f"{each.name}.{method.name}"] = self._places[method.name] = f"{page}.md#{method.name}"

    def index(self) -> Iterator[str]:
        """All RPCs."""
        yield "# Reference\n"
        yield (
            "Made from the contracts, `protos/cutout/v1`. `cutout protos --out contracts` writes them for "
            "[stubs in any language](../grpc.md); over [REST](../rest.md) names are in lowerCamelCase, or as here.\n"
        )
        for file in files(self._contract):
            for service in self._descriptors[name(file)].services_by_name.values():
                yield f"## {service.name}\n"
                yield f"{self._comment(service.full_name, '')}\n"
                yield "| RPC | REST |\n| --- | --- |"
                yield from (f"| {self._link(m.name)} | {'<br>'.join(_rules(m))} |" for m in service.methods)
                yield ""

    def file(self, file: FileDescriptorProto) -> Iterator[str]:
        """A page."""
        descriptor = self._descriptors[name(file)]
        yield f"# {title(file)}\n"
        yield f"`cutout/v1/{name(file)}.proto`\n"
        for service in descriptor.services_by_name.values():
            yield from self._service(service)
        for message in _messages(descriptor):
            yield from self._message(message)
        for enum in _enums(descriptor):
            yield from self._enum(enum)

    def _service(self, service: ServiceDescriptor) -> Iterator[str]:
        yield f"## {service.name} {{ #{service.name} }}\n"
        yield f"{self._comment(service.full_name, service.name)}\n"
        for method in service.methods:
            yield f"### {method.name} {{ #{method.name} }}\n"
            asked = ("stream " if method.client_streaming else "") + self._link(_short(method.input_type))
            answered = ("stream " if method.server_streaming else "") + self._link(_short(method.output_type))
            yield f"{asked} → {answered}\n"
            yield from (f"{rule}\n" for rule in _rules(method))
            yield f"{self._comment(method.full_name, method.name)}\n"

    def _message(self, message: Descriptor) -> Iterator[str]:
        yield f"## {_short(message)} {{ #{_short(message)} }}\n"
        yield f"{self._comment(message.full_name, _short(message))}\n"
        for field in message.fields:
            yield f"`{field.name}` {' · '.join(self._facts(field))}"
            yield f":   {self._comment(field.full_name, _short(message), indent='    ')}\n"

    def _enum(self, enum: EnumDescriptor) -> Iterator[str]:
        yield f"## {_short(enum)} {{ #{_short(enum)} }}\n"
        yield f"{self._comment(enum.full_name, _short(enum))}\n"
        for value in enum.values:
            yield f"`{value.name}` = {value.number}"
            yield f":   {self._comment(f'{enum.full_name}.{value.name}', _short(enum), indent='    ')}\n"

    def _facts(self, field: FieldDescriptor) -> Iterator[str]:
        repeated = "repeated " if field.is_repeated else ""
        of = field.message_type or field.enum_type
        yield repeated + (self._link(_short(of)) if of else FieldDescriptorProto.Type.Name(field.type)[5:].lower())
        if is_required(field):
            yield "**required**"
        oneof = field.containing_oneof
        if oneof and len(oneof.fields) > 1:
            yield f"one of *{oneof.name}*"
        elif field.has_presence and not of:
            yield "optional"

    def _link(self, short: str) -> str:
        place = self._places.get(short)
        return f"[{short}]({place})" if place else f"`{short}`"

    def _comment(self, full_name: str, here: str, indent: str = "") -> str:
        """A comment as Markdown: what it names in code stays so, other names of the contract become links."""
        parts = CODE.split(self._contract.comments.get(full_name, ""))
        text = "".join(part if CODE.fullmatch(part) else self._prose(part, here) for part in parts)
        return text.replace("\n", f"\n{indent}").replace(f"\n{indent}\n", "\n\n")

    def _prose(self, text: str, here: str) -> str:
        escaped = re.sub(r"([*_\[\]])", r"\\\1", html.escape(text, quote=False))
        return NAME.sub(lambda found: self._named(found[0], here), escaped)

    def _named(self, word: str, here: str) -> str:
        """A link for what is unmistakably a name of the contract: it has a second capital, or a field behind it."""
        owner, _, field = word.replace("\\", "").partition(".")
        place = self._places.get(word) or (self._places.get(owner) if field else None)
        plain = not re.search(r"[a-z][A-Z]|\.", word)
        return word if not place or plain or owner == here else f"[{word}]({place})"


def _messages(file: FileDescriptor) -> Iterator[Descriptor]:
    def inner(message: Descriptor) -> Iterator[Descriptor]:
        yield message
        for nested in message.nested_types:
            if not nested.GetOptions().map_entry:
                yield from inner(nested)

    for message in file.message_types_by_name.values():
        yield from inner(message)


def _enums(file: FileDescriptor) -> Iterator[EnumDescriptor]:
    for message in _messages(file):
        yield from message.enum_types
    yield from file.enum_types_by_name.values()


def _short(of: Descriptor | EnumDescriptor | ServiceDescriptor) -> str:
    return of.full_name.removeprefix(f"{PACKAGE}.")


def _rules(method: MethodDescriptor) -> Iterator[str]:
    rule = method.GetOptions().Extensions[annotations_pb2.http]
    for each in (rule, *rule.additional_bindings):
        if verb := each.WhichOneof("pattern"):
            yield f"`{verb.upper()} {getattr(each, verb)}`"
