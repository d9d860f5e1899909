"""Liveness of the gateway, readiness of the servers behind it."""

import asyncio

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from starlette.requests import Request
from starlette.responses import JSONResponse

from cutout_gateway.link import Links

Status = health_pb2.HealthCheckResponse.ServingStatus
SERVING = "SERVING"


async def healthz(request: Request) -> JSONResponse:
    """200 whenever the gateway answers at all."""
    del request
    return JSONResponse({"status": "SERVING"})


async def readyz(request: Request) -> JSONResponse:
    """200 when grpc.health.v1 of a server says SERVING, 503 with what one says otherwise."""
    status = await serving_status(request.state.links, request.app.state.settings.ready_timeout_s)
    return JSONResponse({"status": status}, status_code=200 if status == SERVING else 503)


async def serving_status(links: Links, timeout_s: float) -> str:
    """What grpc.health.v1 of the servers says, the best of it, or the status of a call if it says nothing."""
    said = await asyncio.gather(*(_said(channel, timeout_s) for channel in links.channels()))
    return SERVING if SERVING in said else said[0]


async def _said(channel: grpc.aio.Channel, timeout_s: float) -> str:
    stub = health_pb2_grpc.HealthStub(channel)
    try:
        answer = await stub.Check(health_pb2.HealthCheckRequest(), timeout=timeout_s)
    except grpc.aio.AioRpcError as failure:
        return failure.code().name
    return str(Status.Name(answer.status))
