"""Interfaces of neighbouring systems, for their clients to go on with this server; off until a setting names them."""

import importlib
from collections.abc import Iterable, Iterator, Sequence

from cutout_common.config import ConfigError
from google.protobuf.descriptor_pool import DescriptorPool
from starlette.datastructures import Headers
from starlette.routing import BaseRoute, Match, Mount, Route
from starlette.types import Scope

from cutout_gateway.answer_writer import AnswerWriter
from cutout_gateway.compat.endpoint import CompatEndpoint
from cutout_gateway.compat.interface import Interface
from cutout_gateway.compat.interface import Route as InterfaceRoute
from cutout_gateway.descriptors import Contract
from cutout_gateway.in_hand import InHand
from cutout_gateway.request_reader import RequestReader
from cutout_gateway.routes import Routes
from cutout_gateway.settings import GatewaySettings

NAMES = ("segmentation-app", "paligemma-api", "generate-analyze", "sagemaker", "perceptra-seg")
"""Each is a module here, its hyphen an underscore, which knows messages and is imported when it is named."""
ROOT = "/"


class CompatRoute(Route):
    """A path of a neighbour's. Where it is that of the page, browsers get the page, all others the answer."""

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        """Whether a request is for it."""
        if self.path == ROOT and "text/html" in Headers(scope=scope).get("accept", ""):
            return Match.NONE, {}
        return super().matches(scope)


def routes(
    settings: GatewaySettings,
    contract: Contract,
    own: tuple[Routes, Sequence[BaseRoute]],
    reader: RequestReader,
    writer: AnswerWriter,
    pool: DescriptorPool,
    in_hand: InHand,
) -> list[CompatRoute]:
    """The paths of the interfaces that the setting `compat` names.

    Args:
        settings: The gateway's.
        contract: What the server speaks.
        own: The gateway's own paths, by the contract and beside it.
        reader: Reads bodies.
        writer: Makes answers.
        pool: Knows the errors' details.
        in_hand: Bounds bodies and answers.

    Raises:
        ConfigError: An interface is unknown, or two of them, or one and the gateway itself, have one path.
    """
    rpcs = {rpc.full_name: rpc for rpc in contract.rpcs}
    taken: dict[str, str] = {}
    made: list[CompatRoute] = []
    for interface, route, path in _named(settings.compat):
        other = taken.setdefault(path, interface.name)
        if other != interface.name:
            prefixed = f"{interface.name}=/{interface.name.partition('-')[0]}"
            raise ConfigError(f"compat: {other} and {interface.name} both have {path}; give one a prefix: {prefixed}")
        if _is_own(path, *own):
            raise ConfigError(
                f"compat: {interface.name} would have {path}, which is the gateway's own; give another prefix"
            )
        endpoint = CompatEndpoint(interface, route, path, rpcs, reader, writer, settings, pool, in_hand)
        made += [CompatRoute(each, endpoint) for each in _spellings(path)]
    return made


def _named(entries: Iterable[str]) -> Iterator[tuple[Interface, InterfaceRoute, str]]:
    for entry in entries:
        name, _, prefix = entry.partition("=")
        if name not in NAMES:
            raise ConfigError(f"compat: expected {', '.join(NAMES)}, each with =/PREFIX or without, got {entry!r}")
        interface: Interface = importlib.import_module(f"{__name__}.{name.replace('-', '_')}").INTERFACE
        for route in interface.routes:
            yield interface, route, prefix + route.path


def _spellings(path: str) -> list[str]:
    """With a slash at the end and without, both of which the neighbours' documents write."""
    stem = path.rstrip("/")
    return [stem, f"{stem}/"] if stem else [ROOT]


def _is_own(path: str, bindings: Routes, pages: Sequence[BaseRoute]) -> bool:
    mounts = tuple(f"{page.path}/" for page in pages if isinstance(page, Mount))
    paths = {page.path for page in pages if isinstance(page, Route)} - {ROOT}
    by_contract = any(binding.template.match(path) is not None for binding in bindings.bindings)
    return by_contract or path in paths or path.startswith(mounts)
