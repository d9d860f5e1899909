"""How soon a caller is answered beside others who do their worst, against the same server with nobody else.

    python benchmarks/neighbour.py [--quick] [--json FILE]

The attackers are processes of the lowest priority, as good as on machines of their own: what keeps the processors from
the caller is the server's work for them.
"""

import argparse
import base64
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import grpc
import httpx
import numpy as np
from cutout.v1 import image_pb2, mask_pb2
from cutout.v1 import segmentation_service_pb2 as pb2
from cutout.v1 import segmentation_service_pb2_grpc as pb2_grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from harness.photographs import jpeg, many_scans, photograph
from harness.report import Row, Table
from harness.rounds import quantile
from harness.scenario import Plan, run
from harness.servers import gateway, serving_builtin

GOOD, BAD = "good-0123456789abcdef", "bad-0123456789abcdef"
KEYS = json.dumps([{"caller": "good", "key": GOOD}, {"caller": "bad", "key": BAD}])
BOX = mask_pb2.Box(x_min=60, y_min=40, x_max=400, y_max=460)
TIMEOUT_S = 120.0
SETTLE_S = 2.0  # What an attack does from then on is measured, not how it begins.
SIZE = (512, 512)
MIB = 1 << 20

Ask = Callable[[], object]


def measure(plan: Plan) -> list[Table]:
    """One table, in rounds of nobody and each attack in turn."""
    rounds, seconds = plan.count(3, 1), plan.count(10, 3)
    took: dict[str, dict[str, list[float]]] = {name: {} for name in ("nobody", *ATTACKS)}
    with (
        serving_builtin(api_keys=KEYS) as server,
        gateway(server) as web,
        _questions(server.address, web.address) as ask,
    ):
        for _ in range(rounds):
            for attack, answers in took.items():
                with _attacked(attack, server.address, web.address):
                    for name, seconds_taken in _asked(ask, seconds):
                        answers.setdefault(name, []).append(seconds_taken)
    notes = [f"{os.cpu_count()} cores for the server, the gateway, the caller and the attackers together."]
    return [Table("Answers to a caller beside others", [*_rows(took)], notes=notes)]


def _rows(took: dict[str, dict[str, list[float]]]) -> Iterator[Row]:
    idle = took["nobody"]
    for attack, answers in took.items():
        for name, seconds in answers.items():
            p99 = quantile(seconds, 0.99)
            yield {
                "beside": attack,
                "asked": name,
                "n": len(seconds),
                "p50, ms": 1e3 * quantile(seconds, 0.5),
                "p99, ms": 1e3 * p99,
                "p99, times as long": p99 / quantile(idle[name], 0.99),
            }


def _asked(ask: dict[str, Ask], seconds: float) -> Iterator[tuple[str, float]]:
    """One question after the other, for so long."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        for name, question in ask.items():
            began = time.perf_counter()
            question()
            yield name, time.perf_counter() - began


@contextmanager
def _questions(address: str, url: str) -> Iterator[dict[str, Ask]]:
    key, request = (
        (("x-api-key", GOOD),),
        pb2.SegmentByBoxRequest(image={"content": jpeg(photograph(0, SIZE))}, boxes=[BOX]),
    )
    content = base64.b64encode(request.image.content).decode()
    body = {"image": {"content": content}, "boxes": [{"xMin": 60, "yMin": 40, "xMax": 400, "yMax": 460}]}
    with grpc.insecure_channel(address) as channel, httpx.Client(base_url=url, timeout=TIMEOUT_S) as web:
        health, masks = health_pb2_grpc.HealthStub(channel), pb2_grpc.SegmentationServiceStub(channel)
        yield {
            "health": lambda: health.Check(health_pb2.HealthCheckRequest(), timeout=TIMEOUT_S),
            "mask": lambda: masks.SegmentByBox(request, metadata=key, timeout=TIMEOUT_S),
            "REST mask": lambda: web.post("/v1/segment:box", json=body, headers=dict(key)).raise_for_status(),
        }


@contextmanager
def _attacked(attack: str, address: str, url: str) -> Iterator[None]:
    if attack not in ATTACKS:
        yield
        return
    command = [sys.executable, __file__, "--attack", attack, address, url]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, preexec_fn=lambda: os.nice(19))  # noqa: PLW1509
    assert process.stdout is not None
    try:
        process.stdout.readline()
        time.sleep(SETTLE_S)
        yield
    finally:
        process.kill()
        process.wait()


def _work(address: str, _: str) -> Ask:
    """Masks of ever new pictures, sixteen at a time."""
    requests = iter(range(1 << 60))
    stub = pb2_grpc.SegmentationServiceStub(_channel(address))

    def send() -> None:
        tensor = image_pb2.RawTensor(
            height=SIZE[0], width=SIZE[1], channels=3, data=photograph(next(requests), SIZE).tobytes()
        )
        request = pb2.SegmentByBoxRequest(image=image_pb2.Image(tensor=tensor), boxes=[BOX])
        stub.SegmentByBox(request, metadata=(("x-api-key", BAD),), timeout=TIMEOUT_S)

    return send


def _slow_pictures(address: str, _: str) -> Ask:
    """Files of kilobytes that take long to decode, no two alike: one that came before would not be decoded again."""
    files = iter(range(1 << 32))
    stub = pb2_grpc.SegmentationServiceStub(_channel(address))
    content = many_scans(np.full((3000, 3000), 90, np.uint8), 95)

    def send() -> None:
        behind_the_picture = next(files).to_bytes(4, "big")
        request = pb2.SegmentByBoxRequest(image={"content": content + behind_the_picture}, boxes=[BOX])
        stub.SegmentByBox(request, metadata=(("x-api-key", BAD),), timeout=TIMEOUT_S)

    return send


def _large_messages(address: str, _: str) -> Ask:
    """The largest that are allowed, without a key."""
    call = _channel(address).unary_unary("/cutout.v1.SegmentationService/SegmentByBox")
    return lambda: call(bytes(60 * MIB), timeout=TIMEOUT_S)


def _long_json(_: str, url: str) -> Ask:
    """A body of a hundred thousand keys."""
    body = b"{" + b",".join(b'"%x":0' % number for number in range(100_000)) + b"}"
    headers = {"content-type": "application/json", "x-api-key": BAD}
    return lambda: httpx.post(f"{url}/v1/segment:box", content=body, headers=headers, timeout=TIMEOUT_S)


# How many callers, and what each does over and over.
ATTACKS: dict[str, tuple[int, Callable[[str, str], Ask]]] = {
    "16 callers' new pictures": (16, _work),
    "8 pictures of 95 scans": (8, _slow_pictures),
    "8 messages of 60 MiB": (8, _large_messages),
    "8 bodies of 100,000 keys": (8, _long_json),
}


def _attack(name: str, address: str, url: str) -> None:
    """Until this process is ended."""
    callers, kind = ATTACKS[name]
    send = kind(address, url)

    def on() -> None:
        while True:
            with suppress(grpc.RpcError, httpx.HTTPError):
                send()
            time.sleep(0.01)  # Refused at once, it asks at once again; this process has to breathe, too.

    for _ in range(callers):
        threading.Thread(target=on, daemon=True).start()
    time.sleep(1)
    print("attacking", flush=True)
    threading.Event().wait()


def _channel(address: str) -> grpc.Channel:
    return grpc.insecure_channel(address, [("grpc.max_send_message_length", -1)])


if __name__ == "__main__":
    if sys.argv[1:2] == ["--attack"]:
        parser = argparse.ArgumentParser()
        parser.add_argument("--attack", nargs=3)
        _attack(*parser.parse_args().attack)
    else:
        run("neighbour", measure, __doc__)
