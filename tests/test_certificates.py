"""Certificates: what is wrong with them is said before a port is bound, and new ones are taken without a restart."""

import asyncio
import shutil
import socket
import ssl
import subprocess
from pathlib import Path

import grpc
import httpx
import pytest
from certificates import self_signed
from conftest import run_server
from cutout_client import AsyncClient, Client, UnavailableError
from cutout_common.config import ConfigError
from cutout_gateway.app import create_app
from cutout_gateway.connection import Serving
from cutout_gateway.settings import GatewaySettings
from cutout_server.app import App
from cutout_server.settings import Settings
from gateway_fixtures import GatewayThread
from grpc_health.v1 import health_pb2, health_pb2_grpc
from waiting import PATIENCE_S


@pytest.fixture
def two(tmp_path: Path) -> tuple[Path, Path]:
    """Two folders with a certificate each."""
    folders = tmp_path / "first", tmp_path / "second"
    for folder in folders:
        folder.mkdir()
        self_signed(folder)
    return folders


def take(source: Path, target: Path) -> None:
    for name in ("key.pem", "cert.pem"):
        shutil.copy(source / name, target / name)


def secure(address: str, trusted: bytes) -> grpc.Channel:
    return grpc.secure_channel(
        address,
        grpc.ssl_channel_credentials(trusted),
        # With gRPC's shared pool a second channel could go over the first one's connection.
        [("grpc.use_local_subchannel_pool", 1)],
    )


def serves(channel: grpc.Channel) -> bool:
    request = health_pb2.HealthCheckRequest()
    call = health_pb2_grpc.HealthStub(channel).Check.future(request, timeout=PATIENCE_S)
    return call.code() is grpc.StatusCode.OK and call.result().status == 1


def test_the_server_takes_a_new_certificate(two: tuple[Path, Path]):
    """Who connects afterwards is shown the new one; half of a new one changes nothing; old connections stay."""
    first, second = two
    before, after = ((folder / "cert.pem").read_bytes() for folder in two)
    port = "localhost:{}".format
    with run_server(tls_cert=first / "cert.pem", tls_key=first / "key.pem") as server:
        address = port(server.app.port)
        with secure(address, before) as old:
            assert serves(old)
            shutil.copy(second / "key.pem", first / "key.pem")  # no longer the certificate's
            with secure(address, before) as meanwhile:
                assert serves(meanwhile)
            take(second, first)
            with secure(address, after) as new, secure(address, before) as late:
                assert serves(new)
                assert not serves(late)
            assert serves(old)


def test_the_gateway_takes_a_new_certificate(two: tuple[Path, Path]):
    """The same over HTTPS."""
    first, second = two
    trusts = [ssl.create_default_context(cafile=str(folder / "cert.pem")) for folder in two]
    settings = GatewaySettings(tls_cert=first / "cert.pem", tls_key=first / "key.pem", server_address="127.0.0.1:1")
    with GatewayThread(settings) as gateway:
        url = f"https://localhost:{gateway.port}/healthz"
        with httpx.Client(verify=trusts[0], timeout=PATIENCE_S) as old:
            assert old.get(url).status_code == 200
            shutil.copy(second / "key.pem", first / "key.pem")
            assert httpx.get(url, verify=trusts[0], timeout=PATIENCE_S).status_code == 200
            take(second, first)
            assert httpx.get(url, verify=trusts[1], timeout=PATIENCE_S).status_code == 200
            with pytest.raises(httpx.ConnectError):
                httpx.get(url, verify=trusts[0], timeout=PATIENCE_S)
            assert old.get(url).status_code == 200


@pytest.mark.parametrize("of", ["servers.test", "others.test"])
def test_servers_behind_a_name_are_known_by_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, of: str):
    """It is asked for its addresses, and whoever is there must have a certificate of the name, not of the address."""
    certificate, key = self_signed(tmp_path, f"DNS:{of}")
    found = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", 0))]
    real = socket.getaddrinfo
    monkeypatch.setattr(
        socket, "getaddrinfo", lambda host, *to, **how: found if host == "servers.test" else real(host, *to, **how)
    )
    with run_server(tls_cert=certificate, tls_key=key) as server:
        address = f"dns:///servers.test:{server.app.port}"

        async def asked() -> str:
            async with AsyncClient(address, tls=True, root_certificates=certificate) as client:
                return (await client.status()).state

        settings = GatewaySettings(server_address=address, server_tls_ca=certificate)
        with (
            Client(address, tls=True, root_certificates=certificate) as client,
            GatewayThread(settings) as gateway,
        ):
            url = f"http://127.0.0.1:{gateway.port}/v1/status"
            if of == "servers.test":
                assert client.status().state == asyncio.run(asked()) == "serving"
                assert httpx.get(url, timeout=PATIENCE_S).json()["state"] == "STATE_SERVING"
                return
            with pytest.raises(UnavailableError, match="certificate"):
                client.status()
            with pytest.raises(UnavailableError, match="certificate"):
                asyncio.run(asked())
            assert httpx.get(url, timeout=PATIENCE_S).status_code == 503


@pytest.mark.parametrize("wrong", ["other key", "no key", "encrypted", "missing"])
def test_a_wrong_certificate_is_named(two: tuple[Path, Path], wrong: str):
    """Server and gateway say which settings are wrong and what was expected, not that a port cannot be bound."""
    first, second = two
    key = first / "key.pem"
    if wrong == "other key":
        shutil.copy(second / "key.pem", key)
    elif wrong == "no key":
        shutil.copy(first / "cert.pem", key)
    elif wrong == "encrypted":
        encrypt = ["openssl", "pkey", "-aes256", "-passout", "pass:secret", "-in", key, "-out", first / "new.pem"]
        subprocess.run(encrypt, check=True, capture_output=True)
        (first / "new.pem").replace(key)
    files = {"tls_cert": first / "cert.pem", "tls_key": key}
    gateway = GatewaySettings(**files)
    if wrong == "missing":
        key.unlink()
    expected = r"tls_cert .* and tls_key .*: expected a PEM certificate"
    with pytest.raises(ConfigError, match=expected):
        App(Settings(**files))
    with pytest.raises(ConfigError, match=expected):
        Serving(create_app(gateway), gateway)
