"""ModelService."""

from typing import Any

import grpc
from cutout.v1 import model_service_pb2 as pb2
from cutout.v1 import model_service_pb2_grpc as pb2_grpc

from cutout_server.catalogue import Catalogue, ModelSpec
from cutout_server.convert import responses
from cutout_server.pools.placement import Pools
from cutout_server.status import StatusBoard

Context = grpc.aio.ServicerContext[Any, Any]


class ModelServicer(pb2_grpc.ModelServiceServicer):
    """What the server can do, and how it is doing. Each method is described in the contract."""

    def __init__(self, catalogue: Catalogue, pools: Pools, board: StatusBoard) -> None:
        self._catalogue = catalogue
        self._pools = pools
        self._board = board

    async def ListModels(self, request: pb2.ListModelsRequest, context: Context) -> pb2.ListModelsResponse:
        return pb2.ListModelsResponse(models=[self._describe(spec) for spec in self._catalogue.specs.values()])

    async def GetModel(self, request: pb2.GetModelRequest, context: Context) -> pb2.GetModelResponse:
        return pb2.GetModelResponse(model=self._describe(self._catalogue.get(request.name)))

    async def LoadModel(self, request: pb2.LoadModelRequest, context: Context) -> pb2.LoadModelResponse:
        spec = self._catalogue.get(request.name)
        await self._pools.load(spec, request.device)
        return pb2.LoadModelResponse(model=self._describe(spec))

    async def UnloadModel(self, request: pb2.UnloadModelRequest, context: Context) -> pb2.UnloadModelResponse:
        spec = self._catalogue.get(request.name)
        await self._pools.unload(spec, request.device)
        return pb2.UnloadModelResponse(model=self._describe(spec))

    async def GetStatus(self, request: pb2.GetStatusRequest, context: Context) -> pb2.GetStatusResponse:
        return responses.status(self._board.read())

    def _describe(self, spec: ModelSpec) -> pb2.Model:
        runtimes = self._pools.runtimes(spec) if spec.family.engines else []
        engines = [f"{runtime.engine.value} {runtime.precision.value}" for runtime in runtimes]
        return responses.model(spec, self._pools.loaded(spec), engines)
