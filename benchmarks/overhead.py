"""The server's own time, stage by stage: everything but the model, for a 1-megapixel JPEG with one box over gRPC.

    python benchmarks/overhead.py [--requests 300] [--same] [--json FILE]

The server is a process of its own. Its model is the tests' probe, which fills the box and takes next to no time; what
it takes has rows of its own and is no part of the server's time. No picture comes twice and no embedding is kept,
unless --same is given.
"""

import argparse
import asyncio
import functools
import inspect
import json
import multiprocessing
import os
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import cv2
import grpc
import numpy as np
import skimage.data
from cutout.v1 import image_pb2, mask_pb2, segmentation_service_pb2, segmentation_service_pb2_grpc
from cutout_common import logs
from cutout_common.heap import keep_freed
from cutout_server import call_context, interceptors, metrics
from cutout_server.app import App
from cutout_server.convert import requests, responses
from cutout_server.images import pictures
from cutout_server.imaging import decode
from cutout_server.pipelines import finishing
from cutout_server.settings import Settings

sys.path.append(str(Path(__file__).parents[1] / "tests"))
from probe_family import Probe, probe_family

SIZE = (1024, 1024)
WARM_UP = 30
GIB = 1 << 30
MODEL = "model"
HANDLER = "handler"
WIRE = "wire and transport"
REST = "hops between threads"
PROCESS = "process"
DIGEST = "beside: digest of pixels"
OWN = "the server's own time"

Times = dict[str, list[float]]


class Stopwatch:
    """Notes how long functions take, in milliseconds, under the name of a stage."""

    def __init__(self) -> None:
        self.times: defaultdict[str, list[float]] = defaultdict(list)
        self.cpu: defaultdict[str, float] = defaultdict(float)  # Total milliseconds.
        self._process_s = time.process_time()

    def lap(self) -> tuple[Times, dict[str, float]]:
        """The times of each stage and its total of processor time since the last lap; the process has one, too."""
        self.cpu[PROCESS] = (time.process_time() - self._process_s) * 1000
        lap = dict(self.times), dict(self.cpu)
        self.times, self.cpu, self._process_s = defaultdict(list), defaultdict(float), time.process_time()
        return lap

    def timed(self, stage: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function, timed; time spent in a coroutine counts until it returns."""

        @functools.wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            started, started_cpu = time.perf_counter(), time.thread_time()
            try:
                return function(*args, **kwargs)
            finally:
                self.times[stage].append((time.perf_counter() - started) * 1000)
                self.cpu[stage] += (time.thread_time() - started_cpu) * 1000

        @functools.wraps(function)
        async def call_async(*args: Any, **kwargs: Any) -> Any:
            started = time.perf_counter()
            try:
                return await function(*args, **kwargs)
            finally:
                self.times[stage].append((time.perf_counter() - started) * 1000)

        return call_async if inspect.iscoroutinefunction(function) else call

    def watch(self, owner: Any, name: str, stage: str) -> None:
        """Puts the timed function in the place of the plain one."""
        setattr(owner, name, self.timed(stage, getattr(owner, name)))


def watch_server(watch: Stopwatch) -> None:
    """Every stage of a request that is not the model's."""
    for owner, name, stage in (
        (interceptors, "requested", "receive and parse"),
        (requests.RequestReader, "box", "read the request"),
        (pictures, "open_file", "picture: header"),
        (decode.OpenedFile, "picture", "picture: decode and key"),
        (decode, "key", "picture: key alone"),
        (pictures, "digest", DIGEST),
        (finishing, "_finish", "mask: clean, measure"),
        (finishing, "_encode", "mask: encode"),
        (responses, "segmented_object", "build the answer"),
        (responses, "segmentation", "build the answer"),
        (interceptors, "serialized", "serialise"),
        (call_context.CallLog, "finished", "log"),
        (metrics.Metrics, "started", "metrics: start"),
        (metrics.Metrics, "finished", "metrics: end"),
    ):
        watch.watch(owner, name, stage)
    watch.watch(interceptors.CallInterceptor, "_call", HANDLER)  # around everything that is done for a call


def serve(pipe: Connection, embeddings_cache_bytes: int) -> None:
    """A child process: the server, which tells its address, and its stages' times each time it is asked."""
    keep_freed()
    sys.stderr = Path(os.devnull).open("w")  # noqa: SIM115 - as long as the process
    logs.configure("json", "info")
    watch, probe = Stopwatch(), Probe()
    probe.gate.set()
    watch_server(watch)
    for operation in ("encode", "decode", "masks"):
        watch.watch(Probe, operation, f"{MODEL}: {operation}")

    async def answer() -> None:
        with probe_family(probe) as model:
            app = App(Settings(port=0, metrics_port=0, models=[model], embeddings_cache_bytes=embeddings_cache_bytes))
            await app.start()
            await app.serve()
            pipe.send(app.address)
            while await asyncio.to_thread(pipe.recv) == "times":
                pipe.send(watch.lap())
            await app.stop()

    asyncio.run(answer())


def photographs(count: int) -> list[bytes]:
    """Distinct 1-megapixel JPEG files of a photograph."""
    base = cv2.resize(cv2.cvtColor(skimage.data.astronaut(), cv2.COLOR_RGB2BGR), SIZE, interpolation=cv2.INTER_CUBIC)
    rolled = (np.roll(base, divmod(index, SIZE[0]), axis=(0, 1)) for index in range(count))
    return [cv2.imencode(".jpg", each, [cv2.IMWRITE_JPEG_QUALITY, 90])[1].tobytes() for each in rolled]


def call(address: str, files: list[bytes]) -> Times:
    """One caller, one request after the other."""
    times: defaultdict[str, list[float]] = defaultdict(list)
    box = mask_pb2.Box(x_min=200, y_min=120, x_max=800, y_max=900)
    with grpc.insecure_channel(address) as channel:
        stub = segmentation_service_pb2_grpc.SegmentationServiceStub(channel)
        for content in files:
            started = time.perf_counter()
            request = segmentation_service_pb2.SegmentByBoxRequest(image=image_pb2.Image(content=content), boxes=[box])
            request.SerializeToString()
            built = time.perf_counter()
            stub.SegmentByBox(request, timeout=60)
            times["build and encode"].append((built - started) * 1000)
            times["round trip"].append((time.perf_counter() - built) * 1000)
    return times


def summed(times: Times, requests: int) -> Times:
    """Each request's sum of a stage that runs several times in it."""
    return {
        stage: [sum(part) for part in zip(*[iter(values)] * (len(values) // requests), strict=True)]
        for stage, values in times.items()
        if len(values) >= requests
    }


def report(client: Times, server: Times, cpu: dict[str, float]) -> dict[str, dict[str, float]]:
    """p50 and p99 of each stage in milliseconds with what lies between the stages, and their mean processor time.

    The latter stays the same on a busy machine.
    """
    parts = {stage: values for stage, values in server.items() if stage not in {HANDLER, "picture: key alone", DIGEST}}
    model = [values for stage, values in parts.items() if stage.startswith(MODEL)]
    rows = {
        "client: build and encode": client["build and encode"],
        WIRE: [whole - handler for whole, handler in zip(client["round trip"], server[HANDLER], strict=True)],
        **server,
        REST: [whole - sum(other) for whole, *other in zip(server[HANDLER], *parts.values(), strict=True)],
        "round trip": client["round trip"],
        OWN: [whole - sum(other) for whole, *other in zip(client["round trip"], *model, strict=True)],
    }
    requests = len(client["round trip"])
    models = sum(total for stage, total in cpu.items() if stage.startswith(MODEL))
    cpu = cpu | {OWN: cpu[PROCESS] - models}
    return {
        stage: {
            "p50": statistics.median(values),
            "p99": float(np.percentile(values, 99)),
            **({"cpu": cpu[stage] / requests} if stage in cpu else {}),
        }
        for stage, values in rows.items()
    }


def main() -> None:
    """Starts a server, measures, prints a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=300)
    parser.add_argument("--same", action="store_true", help="the same picture each time")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    spawn = multiprocessing.get_context("spawn")
    ours, theirs = spawn.Pipe()
    server = spawn.Process(target=serve, args=(theirs, GIB if args.same else 0))
    server.start()
    theirs.close()  # So that the pipe breaks when the server does.
    count = WARM_UP + args.requests
    files = photographs(1) * count if args.same else photographs(count)
    address = ours.recv()
    call(address, files[:WARM_UP])
    ours.send("times")
    ours.recv()
    client = call(address, files[WARM_UP:])
    ours.send("times")
    times, cpu = ours.recv()
    rows = report(client, summed(times, args.requests), cpu)
    ours.send("stop")
    server.join()
    print(f"{args.requests} requests, {SIZE[0]} x {SIZE[1]} JPEG of {len(files[0]) / 1e3:.0f} kB, one box")
    print(f"{'stage, ms':>28} {'p50':>8} {'p99':>8} {'cpu':>8}")
    for stage, row in rows.items():
        cpu_ms = f"{row['cpu']:>8.2f}" if "cpu" in row else ""
        print(f"{stage:>28} {row['p50']:>8.2f} {row['p99']:>8.2f} {cpu_ms}")
    if args.json:
        args.json.write_text(json.dumps({"requests": args.requests, "same": args.same, "stages": rows}, indent=1))


if __name__ == "__main__":
    main()
