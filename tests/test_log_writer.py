"""Logs never stop the program: a reader that stops reading costs lines, which are counted, and nothing else."""

import os
import subprocess
import sys
import threading
from collections.abc import Iterator

import grpc
import httpx
import pytest
import structlog
from cutout.v1 import model_service_pb2, model_service_pb2_grpc
from cutout_common import log_writer
from cutout_common.log_writer import LogWriter
from gateway_fixtures import free_port
from grpc_health.v1 import health_pb2, health_pb2_grpc
from waiting import PATIENCE_S, wait_until


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    ends = os.pipe()
    yield ends
    for end in ends:
        os.close(end)


def read_all(descriptor: int, last: str) -> str:
    """What comes until a line that has `last` in it."""
    text = ""
    while last not in text or not text.endswith("\n"):
        text += os.read(descriptor, 65_536).decode()
    return text


def test_lines_arrive_in_their_order(pipe: tuple[int, int]):
    """What is read arrives whole, whatever its letters."""
    writer = LogWriter(pipe[1])
    lines = [f"{number} é \N{SNOWMAN} {'x' * 50}\n" for number in range(5_000)]
    threading.Thread(target=lambda: [writer.write(line) for line in lines], daemon=True).start()
    assert read_all(pipe[0], "4999 ") == "".join(lines)
    assert writer.dropped == 0


def test_lines_that_nobody_reads_are_counted(pipe: tuple[int, int]):
    """Writing goes on, bounded; whoever reads later gets the first lines, and is told how many are missing."""
    writer = LogWriter(pipe[1])
    before = structlog.get_config()
    structlog.configure(
        processors=[structlog.processors.JSONRenderer()], logger_factory=structlog.WriteLoggerFactory(writer)
    )
    try:
        line = "y" * 1_023 + "\n"
        for _ in range(10_000):
            writer.write(line)
        room = log_writer.MAX_CHARACTERS // len(line)
        assert 10_000 - room - 200 <= writer.dropped <= 10_000 - room
        text = read_all(pipe[0], "left out")
    finally:
        structlog.configure(**before)
    assert text.count(line) == 10_000 - writer.dropped
    assert f'"lines": {writer.dropped}' in text.splitlines()[-1]


@pytest.mark.slow
def test_a_server_whose_logs_nobody_reads_serves_on():
    """Far more calls than a pipe has room for lines; every one is answered, and a signal still ends the server."""
    port = free_port()
    command = [sys.executable, "-m", "cutout_server", "--port", str(port), "--metrics-port", str(free_port())]
    with (
        subprocess.Popen(command, stderr=subprocess.PIPE) as process,
        grpc.insecure_channel(f"127.0.0.1:{port}") as channel,
    ):
        health = health_pb2_grpc.HealthStub(channel)
        check = health_pb2.HealthCheckRequest()
        wait_until(lambda: health.Check(check, wait_for_ready=True, timeout=PATIENCE_S).status == 1)
        stub = model_service_pb2_grpc.ModelServiceStub(channel)
        for _ in range(1_000):
            stub.ListModels(model_service_pb2.ListModelsRequest(), timeout=PATIENCE_S)
        metrics = httpx.get(f"http://127.0.0.1:{command[-1]}/metrics", timeout=PATIENCE_S).text
        assert "cutout_log_lines_dropped_total 0.0" in metrics
        process.terminate()
        assert process.wait(PATIENCE_S) == 0
