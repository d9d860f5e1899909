"""Liveness of the gateway, readiness of the server behind it."""

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from starlette.requests import Request
from starlette.responses import JSONResponse

Status = health_pb2.HealthCheckResponse.ServingStatus


async def healthz(request: Request) -> JSONResponse:
    """200 whenever the gateway answers at all."""
    del request
    return JSONResponse({"status": "SERVING"})


async def readyz(request: Request) -> JSONResponse:
    """200 when grpc.health.v1 of the server says SERVING, 503 with what it says otherwise."""
    stub = health_pb2_grpc.HealthStub(request.state.link.channel)
    try:
        timeout_s = request.app.state.settings.ready_timeout_s
        answer = await stub.Check(health_pb2.HealthCheckRequest(), timeout=timeout_s)
    except grpc.aio.AioRpcError as failure:
        return JSONResponse({"status": failure.code().name}, status_code=503)
    status = Status.Name(answer.status)
    return JSONResponse({"status": status}, status_code=200 if status == "SERVING" else 503)
