"""The ASGI endpoint of one path of a neighbouring interface."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import grpc
from cutout_common.status import summary, unpack
from google.protobuf.descriptor_pool import DescriptorPool
from google.rpc.status_pb2 import Status

from cutout_gateway import calls
from cutout_gateway.answer_writer import AnswerWriter
from cutout_gateway.compat.interface import READY, Ask, Interface, Route
from cutout_gateway.descriptors import Rpc
from cutout_gateway.endpoint import Asked, Endpoint
from cutout_gateway.errors import HttpError, error, invalid, method_not_allowed
from cutout_gateway.headers import from_metadata
from cutout_gateway.in_hand import InHand
from cutout_gateway.probes import SERVING, serving_status
from cutout_gateway.request_reader import RequestReader
from cutout_gateway.settings import GatewaySettings
from cutout_gateway.transcode import JSON, Payload, dumps

# Of a picture while it is drawn upon: its pixels, those drawn on, and those cut out.
_BYTES_PER_PIXEL = 9


class CompatEndpoint(Endpoint):
    """Reads a request as the neighbour documents it, makes our call, and answers as the neighbour does."""

    def __init__(
        self,
        interface: Interface,
        route: Route,
        path: str,
        rpcs: Mapping[str, Rpc],
        reader: RequestReader,
        writer: AnswerWriter,
        settings: GatewaySettings,
        pool: DescriptorPool,
        in_hand: InHand,
    ) -> None:
        super().__init__(settings, pool, in_hand)
        self._interface = interface
        self._route = route
        self._path = path
        self._rpcs = rpcs
        self._reader = reader
        self._writer = writer

    async def _serve(self, asked: Asked) -> None:
        scope = asked.scope
        scope["state"]["route"] = self._path
        methods = {"GET", "HEAD"} if self._route.method == "GET" else {self._route.method}
        if scope["method"] not in methods:
            raise method_not_allowed(self._path, sorted(methods))
        if scope["query_string"]:
            raise invalid("query", "expected none here")
        ask = await self._read(asked, self._rpcs[self._route.admits], lambda: self._ask(asked))
        try:
            await self._answer(asked, ask)
        except grpc.aio.AioRpcError as failure:
            raise _renamed(self._from_rpc(asked, failure), ask.names) from None

    async def _ask(self, asked: Asked) -> Ask:
        payload = Payload(await asked.body.read(self._settings.max_body_bytes), asked.body.content_type)
        if self._route.method != "GET":
            return await self._reader.call(self._route.read, payload)
        if payload.data:
            raise invalid("body", "this route takes none")
        return self._route.read(payload)

    async def _answer(self, asked: Asked, ask: Ask) -> None:
        if ask.call and ask.call != READY:
            response, headers = await self._tried(asked, ask.request.place, partial(self._call, asked, ask))
            await asked.reply.hold(response.ByteSize() + _unpacked(response, ask), patient=False)
            data = await self._writer.call(partial(_write, ask.answer, asked.request_id), response)
            del response
            await asked.reply.whole(200, data, JSON, headers)
            return
        if ask.call == READY:
            await self._check_ready(asked)
        await asked.reply.whole(200, _write(ask.answer, asked.request_id, None), JSON)

    async def _call(
        self, asked: Asked, ask: Ask, channel: grpc.aio.Channel, left_s: float
    ) -> tuple[Any, list[tuple[str, str]]]:
        metadata = [*self._terms(asked)[0], *ask.request.place.metadata]
        call = calls.start(channel, self._rpcs[ask.call], metadata, left_s, ask.request.data)
        async with calls.tended(call, asked.body.gone()):
            response = await call
            return response, from_metadata([*await call.initial_metadata(), *await call.trailing_metadata()])

    async def _check_ready(self, asked: Asked) -> None:
        status = await serving_status(asked.links, self._settings.ready_timeout_s)
        if status != SERVING:
            message = f"the server is not ready: {status}"
            raise error(503, grpc.StatusCode.UNAVAILABLE, message, reason="SERVER_NOT_READY", retry_after_s=1.0)

    async def _refuse(self, asked: Asked, failure: HttpError) -> None:
        details = unpack(failure.status)
        status = self._interface.status(failure.http_status, asked.headers)
        violations = [(each.field, each.description) for each in details.violations]
        body = self._interface.error(status, failure.status.message, violations)
        await asked.reply.whole(status, dumps(body), JSON, failure.headers.items())


def _write(answer: Callable[[Any, str], Any], request_id: str, response: Any) -> bytes:
    return dumps(answer(response, request_id))


def _unpacked(response: Any, ask: Ask) -> int:
    """Bytes of the picture while the answer is made."""
    image = response.segmentation.image if ask.decodes else None
    return _BYTES_PER_PIXEL * image.width * image.height if image else 0


def _renamed(failure: HttpError, names: Mapping[str, str]) -> HttpError:
    """The same with the neighbour's names of the fields that are wrong."""
    details = unpack(failure.status)
    if not details.violations:  # its text may begin with a field all the same
        field, colon, rest = failure.status.message.partition(":")
        status = Status.FromString(failure.status.SerializeToString())
        status.message = f"{_rename(field, names)}{colon}{rest}"
        return HttpError(failure.http_status, status, failure.headers)
    violations = [type(each)(_rename(each.field, names), each.description) for each in details.violations]
    code = grpc.StatusCode.INVALID_ARGUMENT
    return error(
        failure.http_status,
        code,
        summary(violations),
        reason=details.reason,
        violations=violations,
        headers=failure.headers,
    )


def _rename(field: str, names: Mapping[str, str]) -> str:
    """The longest name that is the field or stands before a dot or a bracket of it is replaced."""
    fitting = [name for name in names if field == name or field.startswith((f"{name}.", f"{name}["))]
    longest = max(fitting, key=len, default="")
    return names[longest] + field[len(longest) :] if longest else field
