"""What the ASGI endpoints that call the server have in common: bounds, keys before long bodies, one form of errors."""

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import grpc
from cutout_common.routing import ANYWHERE, Place
from google.protobuf.descriptor_pool import DescriptorPool
from starlette.datastructures import Headers
from starlette.types import Receive, Scope, Send

from cutout_gateway import calls
from cutout_gateway.body import Body
from cutout_gateway.descriptors import Rpc
from cutout_gateway.errors import HttpError, from_rpc
from cutout_gateway.headers import Metadata, from_metadata, late, timeout_s, to_metadata
from cutout_gateway.in_hand import InHand, client_of
from cutout_gateway.link import Links
from cutout_gateway.reply import Reply
from cutout_gateway.settings import GatewaySettings
from cutout_gateway.tries import at_servers

T = TypeVar("T")


@dataclass(frozen=True)
class Asked:
    """One request on its way: what it says, where its body comes from, and where its answer goes."""

    scope: Scope
    headers: Headers
    body: Body
    reply: Reply

    @property
    def links(self) -> Links:
        """To the servers."""
        links: Links = self.scope["state"]["links"]
        return links

    @property
    def request_id(self) -> str:
        """The id under which the logs have it."""
        request_id: str = self.scope["state"]["request_id"]
        return request_id

    @property
    def head(self) -> bool:
        """Whether only the headers of the answer are wanted."""
        return bool(self.scope["method"] == "HEAD")


class Endpoint(ABC):
    """Answers requests; what a subclass serves and how it refuses are its own."""

    def __init__(self, settings: GatewaySettings, pool: DescriptorPool, in_hand: InHand) -> None:
        self._settings = settings
        self._pool = pool
        self._in_hand = in_hand

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers one request; `scope["state"]` has the link and the request id, and gets the route for the log."""
        headers = Headers(scope=scope)
        with self._in_hand.of(client_of(headers, scope["state"]["client"])) as (arriving, leaving):
            body = Body(headers, receive, self._settings.min_body_bytes_per_s, arriving)
            asked = Asked(scope, headers, body, Reply(send, body, leaving))
            try:
                await self._serve(asked)
            except HttpError as failure:
                # Once it has begun, the connection breaks instead, so that nobody takes the part for the whole.
                if not asked.reply.started:
                    await self._refuse(asked, failure)
            except grpc.aio.AioRpcError as failure:
                await self._refuse(asked, self._from_rpc(asked, failure))

    @abstractmethod
    async def _serve(self, asked: Asked) -> None:
        """Answers a request."""

    async def _refuse(self, asked: Asked, failure: HttpError) -> None:
        await asked.reply.error(failure, self._pool, asked.request_id)

    def _terms(self, asked: Asked) -> tuple[Metadata, float]:
        """The metadata of the calls that a request makes, and the seconds that they may take."""
        state = asked.scope["state"]
        metadata = to_metadata(asked.headers, asked.request_id, state["client"], state["span"].traceparent)
        return metadata, timeout_s(asked.headers, self._settings.default_timeout_s)

    async def _tried(
        self,
        asked: Asked,
        place: Place,
        attempt: Callable[[grpc.aio.Channel, float], Awaitable[T]],
        has_begun: Callable[[], bool] = lambda: False,
    ) -> T:
        """What an attempt gives at the first server that does not fail for a reason of its own; see `at_servers`."""
        return await at_servers(
            asked.links,
            place,
            self._terms(asked)[1],
            attempt,
            request_id=asked.request_id,
            has_begun=has_begun,
        )

    async def _read(self, asked: Asked, rpc: Rpc, read: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """What is read of a body; of a long one once the server has let its caller in."""
        if not asked.body.is_long:
            return await read()
        asking = self._tried(asked, ANYWHERE, partial(calls.ask, rpc, self._terms(asked)[0]))
        return await calls.unless_refused(asking, read)

    def _from_rpc(self, asked: Asked, failure: grpc.aio.AioRpcError) -> HttpError:
        metadata = [*(failure.initial_metadata() or ()), *(failure.trailing_metadata() or ())]
        error = from_rpc(failure, late(asked.headers, self._settings.default_timeout_s))
        error.headers.update(from_metadata(metadata))
        return error
