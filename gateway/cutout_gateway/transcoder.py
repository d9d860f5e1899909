"""The ASGI endpoint that speaks gRPC for every route of the contracts."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import grpc
from cutout_common import failover, routing
from cutout_common.delivered import AnswerChangedError, Delivered
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from cutout_gateway import calls
from cutout_gateway.answer_writer import AnswerWriter
from cutout_gateway.body import Body
from cutout_gateway.endpoint import Asked, Endpoint
from cutout_gateway.errors import HttpError, from_rpc
from cutout_gateway.headers import from_metadata, late
from cutout_gateway.in_hand import InHand
from cutout_gateway.multipart import is_multipart
from cutout_gateway.reply import Reply
from cutout_gateway.request_reader import Read, RequestReader
from cutout_gateway.routes import Binding, Routes
from cutout_gateway.settings import MIB, GatewaySettings
from cutout_gateway.transcode import (
    NDJSON,
    Payload,
    build,
    error_line,
    parse_query,
    render,
    set_raw,
    split_raw,
)


@dataclass(frozen=True)
class Exchange:
    """A request, and what it means by the contract."""

    asked: Asked
    binding: Binding
    variables: dict[str, str]
    query: list[tuple[str, str]]

    @property
    def body(self) -> Body:
        """Where its body comes from."""
        return self.asked.body

    @property
    def reply(self) -> Reply:
        """Where its answer goes."""
        return self.asked.reply


class Transcoder(Endpoint):
    """Answers HTTP requests by calls to the server."""

    def __init__(
        self,
        settings: GatewaySettings,
        routes: Routes,
        reader: RequestReader,
        writer: AnswerWriter,
        pool: DescriptorPool,
        in_hand: InHand,
    ) -> None:
        super().__init__(settings, pool, in_hand)
        self._routes = routes
        self._reader = reader
        self._writer = writer

    async def _serve(self, asked: Asked) -> None:
        scope = asked.scope
        path = scope["raw_path"].decode("latin-1")
        binding, variables = self._routes.match(scope["method"], path)
        scope["state"]["route"] = binding.template.text
        exchange = Exchange(asked, binding, variables, parse_query(scope["query_string"].decode("latin-1")))
        rpc, (metadata, _) = binding.rpc, self._terms(asked)
        if rpc.client_streaming:
            place = routing.somewhere()
            upload = await self._tried(asked, place, partial(calls.begin, rpc, [*metadata, *place.metadata]))
            async with calls.tended(upload, self._upload(upload, exchange)):
                await self._unary(upload, exchange)
            return
        request = await self._read(asked, rpc, lambda: self._request(exchange))

        delivered = Delivered()

        async def attempt(channel: grpc.aio.Channel, left_s: float) -> None:
            call = calls.start(channel, rpc, [*metadata, *request.place.metadata], left_s, request.data)
            delivered.begin()
            async with calls.tended(call, asked.body.gone()):
                await (self._stream(call, exchange, delivered) if rpc.server_streaming else self._unary(call, exchange))

        try:
            await self._tried(asked, request.place, attempt, lambda: delivered.has_begun)
        except (grpc.aio.AioRpcError, HttpError) as failure:
            if not (rpc.server_streaming and exchange.reply.started):
                raise
            await self._break_off(exchange, failure, delivered)

    async def _request(self, exchange: Exchange) -> Read:
        data = await exchange.body.read(self._settings.max_body_bytes)
        payload = Payload(data, exchange.body.content_type)
        return await self._reader.read(exchange.binding, exchange.variables, exchange.query, payload)

    async def _upload(self, call: Any, exchange: Exchange) -> None:
        await calls.write_all(call, (message.SerializeToString() async for message in self._pieces(exchange)))
        exchange.body.drop()
        await exchange.body.gone()

    async def _pieces(self, exchange: Exchange) -> AsyncIterator[Message]:
        """The messages of an upload: what the URL says, and the body piece by piece."""
        binding = exchange.binding
        if is_multipart(exchange.body.content_type):
            whole = GetMessageClass(binding.rpc.input).FromString((await self._request(exchange)).data)
            for message in split_raw(binding, whole, MIB):
                yield message
            return
        first = True
        async for block in exchange.body.blocks(self._settings.max_upload_bytes, MIB):
            payload = Payload(block, exchange.body.content_type if first else "")
            if first:
                message = build(binding, exchange.variables, exchange.query, payload)
            else:
                message = GetMessageClass(binding.rpc.input)()
                set_raw(binding, message, payload)
            first = False
            yield message

    async def _unary(self, call: Any, exchange: Exchange) -> None:
        message: Message = await call
        # It is there already: while it waited, more would come.
        await exchange.reply.hold(message.ByteSize(), patient=False)
        metadata = [*await call.initial_metadata(), *await call.trailing_metadata()]
        payload = await self._writer.whole(exchange.binding, message)
        del message  # A copy less in memory while the client takes it in.
        await exchange.reply.whole(200, payload.data, payload.content_type, from_metadata(metadata))

    async def _stream(self, call: Any, exchange: Exchange, delivered: Delivered) -> None:
        """Passes on what is new of an answer, which another server may have begun."""
        binding, reply = exchange.binding, exchange.reply
        # Headers wait for the first message: a call that fails at once is answered by its own HTTP status.
        message = await _next(call, reply)
        raw = binding.raw_response
        if not reply.started:
            first = GetMessageClass(binding.rpc.output)() if message is grpc.aio.EOF else message
            content_type = render(binding, first, self._pool).content_type if raw else NDJSON
            await reply.begin(200, content_type, from_metadata(await call.initial_metadata()))
        if exchange.asked.head:
            await reply.end()
            return
        try:
            while message is not grpc.aio.EOF:
                if delivered.is_new(message):
                    await reply.piece(await self._writer.piece(binding, message))
                message = await _next(call, reply)
            delivered.end()
        except AnswerChangedError:
            raise HttpError(500, failover.changed(exchange.asked.request_id)) from None
        await reply.end()

    async def _break_off(
        self, exchange: Exchange, failure: grpc.aio.AioRpcError | HttpError, delivered: Delivered
    ) -> None:
        """Ends an answer that has begun so that nobody takes the part for the whole."""
        if exchange.binding.raw_response:
            return  # without an end: the connection breaks
        late_text = late(exchange.asked.headers, self._settings.default_timeout_s)
        status = (failure if isinstance(failure, HttpError) else from_rpc(failure, late_text)).status
        status.message += failover.so_far(delivered.count)
        await exchange.reply.piece(error_line(status, self._pool, exchange.asked.request_id))
        await exchange.reply.end()


async def _next(call: Any, reply: Reply) -> Any:
    """The next message of a stream, once the client has taken in the last one and there is room for it."""
    reply.drop()
    message = await call.read()
    if message is not grpc.aio.EOF:
        await reply.hold(message.ByteSize(), patient=True)
    return message
