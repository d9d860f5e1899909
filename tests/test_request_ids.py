"""One rule for request ids: what the client and the gateway let pass, the server uses, and the other way round."""

import re

import grpc
import httpx
import pytest
from conftest import RunningServer, Stubs
from cutout.v1 import model_service_pb2
from cutout_client import AsyncClient, Client
from cutout_client.errors import NotFoundError
from cutout_common import request_ids
from cutout_common.status import unpack
from google.protobuf import json_format
from google.rpc.status_pb2 import Status
from grpc_status import rpc_status
from waiting import PATIENCE_S

USABLE = ["a", "user@host", "A-Z.a_z:0/9+=@-", "x" * 128]
UNUSABLE = ["x" * 129, "a b", "a,b", "<a>", "~"]
NEW = re.compile(r"[0-9a-f]{32}")


def by_grpc(stubs: Stubs, given: str) -> set[str]:
    """The ids that a refusal over gRPC carries."""
    with pytest.raises(grpc.RpcError) as refused:
        stubs.models.GetModel(model_service_pb2.GetModelRequest(name="?"), metadata=(("x-request-id", given),))
    trailing = dict(refused.value.trailing_metadata())
    return {trailing["x-request-id"], unpack(rpc_status.from_call(refused.value)).request_id}


def by_rest(url: str, given: str) -> set[str]:
    """The ids that a refusal of the server carries over REST."""
    answer = httpx.get(f"{url}/v1/models/nobody", headers={"x-request-id": given}, timeout=PATIENCE_S)
    return {answer.headers["x-request-id"], unpack(json_format.ParseDict(answer.json(), Status())).request_id}


@pytest.mark.parametrize("given", USABLE)
def test_an_id_is_the_same_everywhere(given: str, server: RunningServer, stubs: Stubs, gateway_url: str):
    """A usable id comes back unchanged from the server, through the gateway, and in the client's errors."""
    assert by_grpc(stubs, given) == by_rest(gateway_url, given) == {given}
    with Client(server.address) as client, pytest.raises(NotFoundError) as refused:
        client.model("?", request_id=given)
    assert refused.value.request_id == given


@pytest.mark.parametrize("given", UNUSABLE)
def test_an_id_that_cannot_be_used_is_replaced_everywhere(given: str, stubs: Stubs, gateway_url: str):
    """The answer's header and the refusal itself have the new one, and they agree."""
    for (new,) in (by_grpc(stubs, given), by_rest(gateway_url, given)):
        assert NEW.fullmatch(new)


@pytest.mark.parametrize("given", [*UNUSABLE, "é", "a\n"])
async def test_the_client_refuses_it(given: str):
    """Callers of the Python client are told before anything is sent."""
    with Client() as client, pytest.raises(ValueError, match=re.escape(request_ids.EXPECTED)):
        client.models(request_id=given)
    async with AsyncClient() as client:
        with pytest.raises(ValueError, match=re.escape(request_ids.EXPECTED)):
            await client.models(request_id=given)
