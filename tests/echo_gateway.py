"""A gateway over the gRPC server that echoes, and a client of its REST."""

from collections.abc import Iterator

import httpx
import pytest
from cutout_gateway.descriptors import Contract
from cutout_gateway.settings import MIB, GatewaySettings
from gateway_fixtures import EchoServer, GatewayThread
from waiting import PATIENCE_S

LIMITS = {"max_body_bytes": MIB, "max_upload_bytes": 2 * MIB}


@pytest.fixture(scope="module")
def gateway(shared_echo: EchoServer, echo_contract: Contract) -> Iterator[GatewayThread]:
    with GatewayThread(GatewaySettings(server_address=shared_echo.address, **LIMITS), echo_contract) as running:
        yield running


@pytest.fixture
def rest(echo: EchoServer, gateway: GatewayThread) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=gateway.url, timeout=PATIENCE_S) as client:
        yield client
