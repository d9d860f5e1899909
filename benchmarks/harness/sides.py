"""The same question to servers that are asked in different ways."""

import base64
import io
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import Any

import grpc as grpcio
import httpx
import numpy as np
from cutout.v1 import image_pb2, mask_pb2, segmentation_service_pb2, segmentation_service_pb2_grpc
from cutout_client import Client
from numpy.typing import NDArray
from PIL import Image

from harness.callers import health_by_grpc, metrics_by_http
from harness.servers import Running

Boxes = NDArray[np.float64]
AsyncAsk = Callable[[bytes, Boxes], Awaitable[object]]
Body = Callable[[bytes, Boxes], tuple[str, dict[str, Any]]]


@dataclass(frozen=True)
class Side:
    """A server and how to ask it.

    Attributes:
        name: For the report.
        ask: (picture's file, (N, 4) boxes) -> bytes of the answer with all masks, as its default encoding.
        asynchronous: The same for many callers at once.
        health: Makes what asks for health, inside a running event loop.
        mask: (picture's file, (1, 4) box) -> (H, W) bool.
    """

    name: str
    ask: Callable[[bytes, Boxes], int]
    asynchronous: Callable[[], AbstractAsyncContextManager[AsyncAsk]]
    health: Callable[[], Callable[[], Awaitable[object]]]
    mask: Callable[[bytes, Boxes], NDArray[np.bool_]]


def perceptra(name: str, server: Running) -> Side:
    """perceptra-seg; one box has a route of its own."""

    def body(file: bytes, boxes: Boxes) -> tuple[str, dict[str, Any]]:
        image, corners = base64.b64encode(file).decode(), boxes.astype(int).tolist()
        if len(boxes) == 1:
            return "/v1/segment/box", {"image": image, "box": corners[0]}
        return "/v1/segment", {"image": image, "boxes": corners, "strategy": "all"}

    def mask(file: bytes, boxes: Boxes) -> NDArray[np.bool_]:
        path, fields = body(file, boxes)
        answer = _post(server.address + path, fields | {"output_formats": ["png"]}).json()
        return np.asarray(Image.open(io.BytesIO(base64.b64decode(answer["png_base64"])))) > 0

    return _over_http(name, server, body, lambda: metrics_by_http(f"{server.address}/v1/healthz"), mask)


def rest(name: str, front: Running, server: Running) -> Side:
    """Cutout behind its gateway, JSON with the file in base64 as the peer has it."""

    def body(file: bytes, boxes: Boxes) -> tuple[str, dict[str, Any]]:
        corners = [dict(zip(("xMin", "yMin", "xMax", "yMax"), box, strict=True)) for box in boxes.tolist()]
        return "/v1/segment:box", {"image": {"content": base64.b64encode(file).decode()}, "boxes": corners}

    health = f"{front.address}/readyz"  # Which asks the server, not the gateway alone.
    return _over_http(name, front, body, lambda: metrics_by_http(health), grpc(name, server).mask)


def grpc(name: str, server: Running) -> Side:
    """Cutout itself by its generated stubs."""

    def request(file: bytes, boxes: Boxes) -> segmentation_service_pb2.SegmentByBoxRequest:
        corners = [mask_pb2.Box(x_min=a, y_min=b, x_max=c, y_max=d) for a, b, c, d in boxes.tolist()]
        return segmentation_service_pb2.SegmentByBoxRequest(image=image_pb2.Image(content=file), boxes=corners)

    def ask(file: bytes, boxes: Boxes) -> int:
        with grpcio.insecure_channel(server.address) as channel:
            stub = segmentation_service_pb2_grpc.SegmentationServiceStub(channel)
            return int(stub.SegmentByBox(request(file, boxes), timeout=600).ByteSize())

    @asynccontextmanager
    async def asynchronous() -> AsyncIterator[AsyncAsk]:
        async with grpcio.aio.insecure_channel(server.address) as channel:
            stub = segmentation_service_pb2_grpc.SegmentationServiceStub(channel)
            yield lambda file, boxes: stub.SegmentByBox(request(file, boxes), timeout=600)

    def mask(file: bytes, boxes: Boxes) -> NDArray[np.bool_]:
        with Client(server.address, timeout_s=600) as client:
            answer = client.segment_box(file, boxes)
            return answer[0].mask if len(answer) else np.zeros((answer.image.height, answer.image.width), bool)

    return Side(name, ask, asynchronous, lambda: health_by_grpc(server.address), mask)


def _over_http(
    name: str,
    server: Running,
    body: Body,
    health: Callable[[], Callable[[], Awaitable[object]]],
    mask: Callable[[bytes, Boxes], NDArray[np.bool_]],
) -> Side:
    def ask(file: bytes, boxes: Boxes) -> int:
        path, fields = body(file, boxes)
        return len(_post(server.address + path, fields).content)

    @asynccontextmanager
    async def asynchronous() -> AsyncIterator[AsyncAsk]:
        async with httpx.AsyncClient(timeout=600, trust_env=False) as client:

            async def post(file: bytes, boxes: Boxes) -> object:
                path, fields = body(file, boxes)
                return (await client.post(server.address + path, json=fields)).raise_for_status()

            yield post

    return Side(name, ask, asynchronous, health, mask)


def _post(url: str, fields: dict[str, Any]) -> httpx.Response:
    return httpx.post(url, json=fields, timeout=600, trust_env=False).raise_for_status()
