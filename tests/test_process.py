"""The server as a process: start, health, reflection, signals, exit codes."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from hashlib import sha256
from pathlib import Path

import grpc
import pytest
from conftest import Photo, RunningServer, Stubs, run_server
from cutout.v1 import mask_pb2, model_service_pb2
from cutout.v1 import segmentation_service_pb2 as pb2
from cutout_server.models.registry import FAMILIES
from grpc_channelz.v1 import channelz_pb2, channelz_pb2_grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from probe_family import Probe, probe_family
from waiting import PATIENCE_S, wait_until

from tools import require

ROOT = Path(__file__).parent.parent
SERVICES = ["", "cutout.v1.SegmentationService", "cutout.v1.ImageService", "cutout.v1.ModelService"]
NOT_SERVING, SERVING = health_pb2.HealthCheckResponse.NOT_SERVING, health_pb2.HealthCheckResponse.SERVING


@dataclass
class Process:
    """A server process; its log lines are gathered as they come."""

    popen: subprocess.Popen[str]
    lines: list[str] = field(default_factory=list)

    def events(self, name: str) -> list[dict[str, object]]:
        """Log lines of one event."""
        parsed = (json.loads(line) for line in self.lines if line.startswith("{"))
        return [event for event in parsed if event["event"] == name]

    @property
    def address(self) -> str:
        """Where it serves, once it does."""
        wait_until(lambda: self.events("serving") or self.popen.poll() is not None)
        return str(self.events("serving")[0]["address"])


GATED = str(Path(__file__).parent / "gated_server.py")


@contextmanager
def start(*flags: str, program: tuple[str, ...] = ("-m", "cutout_server"), **environment: str) -> Iterator[Process]:
    command = [sys.executable, *program, "--port", "0", "--metrics-port", "-1", *flags]
    popen = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=os.environ | environment)
    process = Process(popen)
    reader = threading.Thread(target=lambda: process.lines.extend(iter(popen.stderr.readline, "")))
    reader.start()
    try:
        yield process
    finally:
        popen.kill()
        popen.wait()
        reader.join()
        popen.stderr.close()


def health_of(channel: grpc.Channel, service: str) -> int:
    return health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(service=service)).status


@pytest.mark.slow
def test_sigterm_drains(photos: dict[str, Photo], tmp_path: Path):
    """Work that was accepted before SIGTERM is answered, the process ends with 0, and every call was logged."""
    boxes = [mask_pb2.Box(x_min=x, y_min=10, x_max=x + 300, y_max=290) for x in range(0, 120, 6)]
    request = pb2.SegmentByBoxRequest(image={"content": photos["chelsea"].jpeg}, boxes=boxes)
    gate = tmp_path / "gate"
    with (
        start("--drain-s", str(PATIENCE_S), program=(GATED, str(gate))) as process,
        grpc.insecure_channel(process.address) as channel,
        ThreadPoolExecutor(1) as pool,
    ):
        accepted = pool.submit(
            Stubs.over(channel).segmentation.SegmentByBox, request, metadata=(("x-request-id", "last"),)
        )
        models = Stubs.over(channel).models
        wait_until(lambda: models.GetStatus(model_service_pb2.GetStatusRequest()).devices[0].requests == 1)
        process.popen.send_signal(signal.SIGTERM)
        wait_until(lambda: process.events("draining"))
        gate.touch()
        assert len(accepted.result().segmentation.objects) == len(boxes)
        assert process.popen.wait(PATIENCE_S) == 0
        (call,) = [event for event in process.events("call") if event["request_id"] == "last"]
    assert (call["code"], call["method"], call["caller"]) == ("OK", "SegmentByBox", "anonymous")
    assert call["stages"]["prompt"] > 0


@pytest.mark.slow
def test_sigterm_does_not_wait_for_ever(photos: dict[str, Photo], tmp_path: Path):
    """What is not done within the drain time is cut off."""
    box = mask_pb2.Box(x_min=10, y_min=10, x_max=200, y_max=290)
    request = pb2.SegmentByBoxRequest(image={"content": photos["chelsea"].jpeg}, boxes=[box])
    program = (GATED, str(tmp_path / "never"))
    with start("--drain-s", "0.2", program=program) as process, grpc.insecure_channel(process.address) as channel:
        call = Stubs.over(channel).segmentation.SegmentByBox.future(request)
        models = Stubs.over(channel).models
        wait_until(lambda: models.GetStatus(model_service_pb2.GetStatusRequest()).devices[0].requests == 1)
        process.popen.send_signal(signal.SIGTERM)
        assert process.popen.wait(PATIENCE_S) == 0
        assert call.code() in {grpc.StatusCode.CANCELLED, grpc.StatusCode.UNAVAILABLE}


@pytest.mark.parametrize(
    ("flags", "code", "complaint"),
    [
        (("--models", '{"name": "sam", "family": "sam2", "checkpoint": "nowhere.pt"}'), 1, "nowhere.pt"),
        (("--models", '{"name": "sam", "family": "sam9"}'), 2, "sam9"),
        (("--tls-cert", "nowhere.pem", "--tls-key", "nowhere.pem"), 2, "nowhere.pem"),
        (("--image-store-dir", "/dev/null/pictures"), 2, "image_store_dir: no pictures can be kept there"),
        (("--devices", "cuda:99"), 2, "there is no device cuda:99"),
        (("--devices", "cpu", "--devices", "cpu"), 2, "devices: each once"),
    ],
)
@pytest.mark.slow
def test_a_server_that_cannot_start_says_why(flags: tuple[str, ...], code: int, complaint: str):
    """Wrong settings end with 2, what cannot be loaded or bound with 1; one line names it, without a traceback."""
    with start(*flags) as process:
        assert process.popen.wait(PATIENCE_S) == code
    text = "".join(process.lines)
    assert complaint in text
    assert "Traceback" not in text


@pytest.mark.slow
def test_keys_are_read_again_on_sighup(tmp_path: Path):
    """New keys are let in and old ones are not, by key or hash; calls inside go on; bad settings change nothing."""
    old, new = "old-0123456789abcdef", "new-0123456789abcdef"
    file = tmp_path / "cutout.yaml"
    file.write_text(f"api_keys: [{{caller: me, key: {old}}}]")
    hashed = sha256(new.encode()).hexdigest()

    def messages() -> Iterator[pb2.SegmentSessionRequest]:
        yield pb2.SegmentSessionRequest(open={})
        admitted.wait(PATIENCE_S)

    with start("--config", str(file)) as process, grpc.insecure_channel(process.address) as channel:
        stubs, admitted = Stubs.over(channel), threading.Event()

        def let_in(key: str) -> bool:
            request = model_service_pb2.ListModelsRequest()
            return stubs.models.ListModels.future(request, metadata=[("x-api-key", key)]).code() is grpc.StatusCode.OK

        assert (let_in(old), let_in(new)) == (True, False)
        inside = stubs.segmentation.SegmentSession(messages(), metadata=[("x-api-key", old)])
        file.write_text("api_keys: [{caller: me}]")
        process.popen.send_signal(signal.SIGHUP)
        wait_until(lambda: process.events("settings not read again; the keys before go on"))
        assert (let_in(old), let_in(new)) == (True, False)
        file.write_text(f"api_keys: [{{caller: you, sha256: {hashed}}}]")
        process.popen.send_signal(signal.SIGHUP)
        wait_until(lambda: process.events("keys read again"))
        assert (let_in(old), let_in(new)) == (False, True)
        assert inside.is_active()
        admitted.set()


def test_keys_that_take_long_to_read(tmp_path: Path):
    """Calls are served all the while, though it is asked for again and again; whom it names last are let in."""
    old, new = "old-0123456789abcdef", "new-0123456789abcdef"
    file = tmp_path / "cutout.yaml"
    file.write_text(f"api_keys: [{{caller: me, key: {old}}}]")
    with start("--config", str(file)) as process, grpc.insecure_channel(process.address) as channel:
        models = Stubs.over(channel).models

        def let_in(key: str) -> bool:
            request = model_service_pb2.ListModelsRequest()
            return models.ListModels.future(request, PATIENCE_S, [("x-api-key", key)]).code() is grpc.StatusCode.OK

        file.write_text("api_keys:\n" + "".join(f"- {{caller: c{n}, key: key-0123456789-{n}}}\n" for n in range(3_000)))
        for _ in range(50):
            process.popen.send_signal(signal.SIGHUP)
        wait_until(lambda: not let_in(old))
        file.write_text(f"api_keys: [{{caller: me, key: {new}}}]")
        process.popen.send_signal(signal.SIGHUP)
        wait_until(lambda: let_in(new))
        assert not let_in(old)
        assert len(process.events("keys read again")) < 25


def test_a_file_without_keys_lets_nobody_in(tmp_path: Path):
    """Where there were keys; somebody may be writing it."""
    file = tmp_path / "cutout.yaml"
    file.write_text("api_keys: [{caller: me, key: old-0123456789abcdef}]")
    with start("--config", str(file)) as process, grpc.insecure_channel(process.address) as channel:
        file.write_text("")
        process.popen.send_signal(signal.SIGHUP)
        wait_until(lambda: process.events("settings not read again; the keys before go on"))
        call = Stubs.over(channel).models.ListModels.future(model_service_pb2.ListModelsRequest())
        assert call.code() is grpc.StatusCode.UNAUTHENTICATED


def test_a_taken_port_is_noticed(server: RunningServer):
    """Two servers never share a port in silence."""
    with start("--port", server.address.split(":")[1]) as process:
        assert process.popen.wait(PATIENCE_S) == 1
    assert "cannot listen" in "".join(process.lines)


def test_print_config_shows_the_settings_in_force():
    """--print-config prints YAML and does not start anything."""
    command = [sys.executable, "-m", "cutout_server", "--print-config", "--port", "1234"]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert re.search(r"^port: 1234$", printed, re.MULTILINE)


def test_health_follows_the_servers_life():
    """NOT_SERVING while models load and while draining, SERVING in between, for each service."""
    loading, probe = threading.Event(), Probe()
    probe.gate.set()
    with probe_family(probe) as model:

        def load(*_: object) -> Probe:
            assert loading.wait(PATIENCE_S)
            return probe

        FAMILIES["probe"] = replace(FAMILIES["probe"], load=load)
        with run_server(models=[model], wait_until_serving=False) as server, server.channel() as channel:
            assert [health_of(channel, service) for service in SERVICES] == [NOT_SERVING] * 4
            loading.set()
            wait_until(lambda: health_of(channel, "") == SERVING)
            assert [health_of(channel, service) for service in SERVICES] == [SERVING] * 4
            watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(service=SERVICES[1]))
            assert next(watch).status == SERVING
            server.stop()
            assert next(watch).status == NOT_SERVING
            watch.cancel()
            with pytest.raises(grpc.RpcError) as unknown:
                health_of(channel, "nobody")
            assert unknown.value.code() in {grpc.StatusCode.NOT_FOUND, grpc.StatusCode.UNAVAILABLE}


def test_health_is_answered_while_models_work(photos: dict[str, Photo]):
    """A busy device does not keep health waiting: it is answered before the work is done."""
    probe = Probe()
    request = pb2.SegmentByBoxRequest(
        image={"content": photos["chelsea"].jpeg}, boxes=[mask_pb2.Box(x_max=90, y_max=90)]
    )
    with probe_family(probe) as model, run_server(models=[model]) as server, server.channel() as channel:
        pending = [Stubs.over(channel).segmentation.SegmentByBox.future(request) for _ in range(16)]
        wait_until(lambda: probe.passes)
        assert health_of(channel, "") == SERVING
        assert not any(call.done() for call in pending)
        probe.gate.set()
        assert all(call.result().segmentation.objects for call in pending)


def test_channelz_is_on_an_internal_port():
    """The admin port has channelz; the public one has not."""
    with run_server(admin_port=0) as server:
        request = channelz_pb2.GetServersRequest()
        with grpc.insecure_channel(f"127.0.0.1:{server.app.admin_port}") as channel:
            assert channelz_pb2_grpc.ChannelzStub(channel).GetServers(request).server
        with server.channel() as channel, pytest.raises(grpc.RpcError) as refused:
            channelz_pb2_grpc.ChannelzStub(channel).GetServers(request)
        assert refused.value.code() is grpc.StatusCode.UNIMPLEMENTED


@pytest.mark.slow
def test_buf_curl_finds_its_way_by_reflection(server: RunningServer):
    """A stranger with nothing but the address can list the services and call one."""
    require("npx", "install Node.js")
    if not (ROOT / "node_modules/.bin/buf").exists():
        require("buf", "npm install")
    url = f"http://{server.address}"
    command = ["npx", "buf", "curl", "--protocol", "grpc", "--http2-prior-knowledge"]
    listed = subprocess.run([*command, "--list-methods", url], capture_output=True, text=True, cwd=ROOT)
    assert "cutout.v1.SegmentationService/SegmentSession" in listed.stdout
    models = subprocess.run(
        [*command, "-d", "{}", f"{url}/cutout.v1.ModelService/ListModels"], capture_output=True, text=True, cwd=ROOT
    )
    assert json.loads(models.stdout)["models"][0]["name"] == "builtin"


def test_reflection_can_be_turned_off():
    """Without reflection its service is unknown."""
    request = reflection_pb2.ServerReflectionRequest(list_services="")
    for on in (True, False):
        with run_server(reflection=on) as server, server.channel() as channel:
            answers = reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo(iter([request]))
            if on:
                names = {service.name for service in next(answers).list_services_response.service}
                assert names >= {name for name in SERVICES if name}
            else:
                with pytest.raises(grpc.RpcError) as refused:
                    next(answers)
                assert refused.value.code() is grpc.StatusCode.UNIMPLEMENTED
