"""Roles: what is the operator's alone, over gRPC and REST."""

from collections.abc import Callable, Iterator
from typing import Any

import grpc
import httpx
import numpy as np
import pytest
from conftest import RunningServer, Stubs, run_server
from cutout.v1 import model_service_pb2 as pb2
from cutout_client import Client, PermissionDeniedError
from cutout_common.status import unpack
from cutout_gateway.settings import GatewaySettings
from gateway_fixtures import GatewayThread
from grpc_status import rpc_status
from waiting import PATIENCE_S

SHOP, LAB, BOSS = (name * 16 for name in ("shop", "lab", "boss"))
KEYS = [
    {"caller": "shop", "key": SHOP},
    {"caller": "lab", "key": LAB, "roles": []},
    {"caller": "boss", "key": BOSS, "roles": ["operator"]},
]
OPERATORS: dict[str, Callable[[Stubs, Any], Any]] = {
    "LoadModel": lambda stubs, key: stubs.models.LoadModel(pb2.LoadModelRequest(name="builtin"), metadata=key),
    "UnloadModel": lambda stubs, key: stubs.models.UnloadModel(pb2.UnloadModelRequest(name="builtin"), metadata=key),
    "GetStatus": lambda stubs, key: stubs.models.GetStatus(pb2.GetStatusRequest(), metadata=key),
}
PATHS = {"LoadModel": "models/builtin:load", "UnloadModel": "models/builtin:unload", "GetStatus": "status"}


@pytest.fixture(scope="module")
def keyed() -> Iterator[RunningServer]:
    with run_server(api_keys=KEYS) as server:
        yield server


@pytest.mark.parametrize("method", OPERATORS)
def test_what_is_the_operators_is_refused_to_others(method: str, keyed: RunningServer):
    """The refusal names the role; a key that has it may, and one without it may still ask for models."""
    with keyed.channel() as channel:
        stubs = Stubs.over(channel)
        for key in (SHOP, LAB):
            with pytest.raises(grpc.RpcError) as refused:
                OPERATORS[method](stubs, [("x-api-key", key)])
            status = rpc_status.from_call(refused.value)
            assert refused.value.code() is grpc.StatusCode.PERMISSION_DENIED
            assert unpack(status).reason == "ROLE_MISSING"
            assert "operator" in status.message
            assert stubs.models.ListModels(pb2.ListModelsRequest(), metadata=[("x-api-key", key)]).models
        assert OPERATORS[method](stubs, [("x-api-key", BOSS)])


def test_rest_and_the_client_are_told_the_same(keyed: RunningServer):
    """403 over REST, PermissionDeniedError in Python."""
    with GatewayThread(GatewaySettings(server_address=keyed.address)) as gateway:
        for method, path in PATHS.items():
            ask = httpx.get if method == "GetStatus" else httpx.post
            url, patience = f"{gateway.url}/v1/{path}", {"timeout": PATIENCE_S}
            assert ask(url, headers={"x-api-key": SHOP}, **patience).status_code == 403
            assert ask(url, headers={"x-api-key": BOSS}, **patience).status_code == 200
    with Client(keyed.address, api_key=SHOP) as client, pytest.raises(PermissionDeniedError, match="role operator"):
        client.status()


@pytest.mark.parametrize(
    ("keys", "may"),
    [
        ([], True),
        ([{"caller": "shop", "key": SHOP}], True),
        ([{"caller": "shop", "key": SHOP}, {"caller": "shop", "key": SHOP[::-1]}], True),
        ([{"caller": "shop", "key": SHOP, "roles": []}], False),
        ([{"caller": "shop", "key": SHOP}, {"caller": "lab", "key": LAB}], False),
    ],
)
def test_who_is_the_operator_when_no_key_says(keys: list[dict[str, Any]], *, may: bool):
    """Whoever is alone: anybody where there are no keys, and the only caller, unless its key has no role on purpose."""
    with run_server(api_keys=keys) as server, Client(server.address, api_key=SHOP if keys else "") as client:
        if may:
            assert client.status().state == "serving"
        else:
            with pytest.raises(PermissionDeniedError):
                client.status()


def test_the_operator_sees_what_each_caller_uses(keyed: RunningServer):
    """By their names, in the status and in Python."""
    with Client(keyed.address, api_key=LAB) as lab, Client(keyed.address, api_key=BOSS) as boss:
        lab.upload(np.zeros((8, 8, 3), np.uint8))
        found = {each.name: each for each in boss.status().callers}
    assert set(found) == {"shop", "lab", "boss"}
    assert (found["lab"].stored_images, found["shop"].stored_images) == (1, 0)
    assert found["lab"].stored_bytes > 0
