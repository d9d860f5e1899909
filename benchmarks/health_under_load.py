"""How soon health is answered while callers keep a model busy, beside an idle server in the same run.

    python benchmarks/health_under_load.py [--callers 16] [--seconds 10] [--checkpoint FILE --config NAME] [--json FILE]

The server is a process of its own; without a checkpoint the built-in model is kept busy.
"""

import argparse
import asyncio
import json
import statistics
import subprocess
import sys
import threading
import time
from pathlib import Path

import grpc
import numpy as np
import skimage.data
from cutout.v1 import image_pb2, mask_pb2, segmentation_service_pb2, segmentation_service_pb2_grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc


def main() -> None:
    """Starts a server, measures, prints a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--callers", type=int, default=16)
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--checkpoint", type=Path)
    parser.add_argument("--config")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    command = [sys.executable, "-m", "cutout_server", "--port=0", "--metrics-port=-1"]
    if args.checkpoint:
        model = {"name": "sam2", "family": "sam2", "checkpoint": str(args.checkpoint), "config": args.config}
        command += ["--models", json.dumps(model)]
    server = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        assert server.stderr is not None
        events = (json.loads(line) for line in iter(server.stderr.readline, ""))
        address = next(event["address"] for event in events if event["event"] == "serving")
        threading.Thread(target=server.stderr.read, daemon=True).start()  # So that its log never blocks it.
        idle, busy, requests = asyncio.run(measure(address, args.callers, args.seconds))
    finally:
        server.terminate()
        server.wait()
    report = {"callers": args.callers, "requests": requests, "idle": summary(idle), "busy": summary(busy)}
    print(f"{args.callers} callers, {requests} requests answered")
    print(f"{'health, ms':>12} {'n':>7} {'p50':>8} {'p90':>8} {'p99':>8} {'max':>8}")
    for name in ("idle", "busy"):
        row = report[name]
        print(f"{name:>12} {row['n']:>7} " + " ".join(f"{row[key]:>8.2f}" for key in ("p50", "p90", "p99", "max")))
    if args.json:
        args.json.write_text(json.dumps(report, indent=1))


async def measure(address: str, callers: int, seconds: float) -> tuple[list[float], list[float], int]:
    """Health times of the idle and of the busy server in milliseconds, and the requests answered meanwhile."""
    async with grpc.aio.insecure_channel(address) as channel:
        idle = await ask_health(channel, seconds / 2)
        stop = asyncio.Event()
        tasks = [asyncio.create_task(call(address, index, stop)) for index in range(callers)]
        await asyncio.sleep(1)
        busy = await ask_health(channel, seconds)
        stop.set()
        return idle, busy, sum(await asyncio.gather(*tasks))


async def ask_health(channel: grpc.aio.Channel, seconds: float) -> list[float]:
    """Milliseconds of one health check after the other, 100 a second."""
    stub = health_pb2_grpc.HealthStub(channel)
    end = time.monotonic() + seconds
    times = []
    while time.monotonic() < end:
        started = time.monotonic()
        await stub.Check(health_pb2.HealthCheckRequest())
        times.append((time.monotonic() - started) * 1000)
        await asyncio.sleep(0.01)
    return times


async def call(address: str, index: int, stop: asyncio.Event) -> int:
    """One caller: distinct pictures, one box each, one after the other; counts its answers."""
    rng = np.random.default_rng(index)
    base = skimage.data.astronaut()
    answered = 0
    async with grpc.aio.insecure_channel(address) as channel:
        stub = segmentation_service_pb2_grpc.SegmentationServiceStub(channel)
        while not stop.is_set():
            pixels = np.roll(base, rng.integers(0, 512, 2), axis=(0, 1))
            tensor = image_pb2.RawTensor(height=512, width=512, channels=3, data=pixels.tobytes())
            box = mask_pb2.Box(x_min=60, y_min=40, x_max=400, y_max=460)
            request = segmentation_service_pb2.SegmentByBoxRequest(image=image_pb2.Image(tensor=tensor), boxes=[box])
            await stub.SegmentByBox(request, timeout=120)
            answered += 1
    return answered


def summary(times: list[float]) -> dict[str, float]:
    """Percentiles."""
    cuts = statistics.quantiles(times, n=100)
    return {"n": len(times), "p50": cuts[49], "p90": cuts[89], "p99": cuts[98], "max": max(times)}


if __name__ == "__main__":
    main()
