"""An hour of mixed load, with the memory and the file descriptors of server and gateway watched.

    python benchmarks/endurance.py [--quick] [--json FILE]

Whatever callers do goes on side by side, well and badly meant: masks of known and of new pictures, words, everything,
streams, sessions, uploads, live tracking, REST; beside calls that are cancelled, streams that nobody reads, bodies that
never end, noise instead of pictures, JSON of a hundred thousand keys.
"""

import asyncio
import base64
import itertools
import json
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field
from urllib.parse import urlsplit

import grpc
import httpx
import numpy as np
import psutil
from cutout.v1 import segmentation_service_pb2 as pb2
from cutout.v1 import segmentation_service_pb2_grpc as pb2_grpc
from cutout_client import AsyncClient
from cutout_client.errors import CutoutError
from harness.photographs import boxes, jpeg, photograph
from harness.plots import Lines
from harness.report import Row, Table
from harness.scenario import Plan, run
from harness.servers import Running, gateway, serving_builtin

SIZE = (480, 640)
KNOWN = [jpeg(photograph(index, SIZE)) for index in range(8)]
BOX = boxes(1, SIZE)
JSON_BOX = [{"xMin": 100, "yMin": 100, "xMax": 500, "yMax": 400}]
# Of each kind between two rounds: memory is what is measured here, and not the most that can be answered.
PAUSE_S = 0.3
PATIENCE_S = 300.0
GOOD, BAD = "good-0123456789abcdef", "bad-0123456789abcdef"
KEYS = json.dumps([{"caller": "good", "key": GOOD}, {"caller": "bad", "key": BAD}])
HEAD = f"POST /v1/segment:box HTTP/1.1\r\nHost: x\r\nX-Api-Key: {BAD}\r\nContent-Length: 5000000\r\n\r\n"
BUSY = {429, 503}  # Invitations to come back are true answers.

Round = Callable[[], Awaitable[object]]


@dataclass
class Sample:
    """What a program and its children have."""

    name: str
    process: psutil.Process
    rows: list[Row] = field(default_factory=list)

    def take(self, minutes: float) -> None:
        """Reads it now."""
        resident = descriptors = 0
        for process in (self.process, *self.process.children(recursive=True)):
            with suppress(psutil.NoSuchProcess):
                resident += process.memory_info().rss
                descriptors += process.num_fds()
        self.rows.append(
            {"program": self.name, "minutes": minutes, "resident MiB": resident / 2**20, "descriptors": descriptors}
        )

    def summary(self) -> Row:
        """Medians of the second and of the last quarter: the first one fills the caches."""
        quarter = max(1, len(self.rows) // 4)
        second, last = self.rows[quarter : 2 * quarter] or self.rows, self.rows[-quarter:]
        row: Row = {"program": self.name}
        for what in ("resident MiB", "descriptors"):
            row[f"{what}, second quarter"] = float(np.median([each[what] for each in second]))
            row[f"{what}, last quarter"] = float(np.median([each[what] for each in last]))
            row[f"{what}, most"] = max(each[what] for each in self.rows)
        return row


def measure(plan: Plan) -> list[Table]:
    """Answers by kind, and what the programs had."""
    minutes = plan.count(60, 1)
    with serving_builtin(api_keys=KEYS) as server, gateway(server) as web:
        samples = [Sample("server", psutil.Process(server.pid)), Sample("gateway", psutil.Process(web.pid))]
        answers = asyncio.run(_drive(server, web, samples, minutes))
    kinds: list[Row] = [
        {"kind": kind, **{outcome: count for (name, outcome), count in sorted(answers.items()) if name == kind}}
        for kind in dict.fromkeys(name for name, _ in answers)
    ]
    for row in kinds:
        for outcome in ("done", "refused", "told to wait", "failed"):
            row.setdefault(outcome, 0)
    figure = Lines("minutes", "resident MiB", ("minutes", "resident memory, MiB"), "program")
    title = f"{minutes} minutes of mixed load"
    return [
        Table(title, [sample.summary() for sample in samples]),
        Table(f"{title}: as it went", [row for sample in samples for row in sample.rows], figure),
        Table(f"{title}: answers", kinds),
    ]


async def _drive(server: Running, web: Running, samples: Sequence[Sample], minutes: float) -> Counter[tuple[str, str]]:
    """All kinds side by side until the time is over; counts of (kind, outcome)."""
    answers: Counter[tuple[str, str]] = Counter()
    began = time.monotonic()
    async with AsyncExitStack() as stack:
        both = []
        for key in (GOOD, BAD):
            client = AsyncClient(server.address, api_key=key, timeout_s=PATIENCE_S)
            rest = httpx.AsyncClient(base_url=web.address, headers={"x-api-key": key}, timeout=PATIENCE_S)
            both.append((await stack.enter_async_context(client), await stack.enter_async_context(rest)))
        channel = await stack.enter_async_context(grpc.aio.insecure_channel(server.address))
        kinds = {**_good(*both[0]), **_bad(*both[1], channel, web.address)}
        callers = [asyncio.create_task(_caller(kind, ask, answers)) for kind, ask in kinds.items()]
        while (passed_s := time.monotonic() - began) < 60 * minutes:
            for sample in samples:
                sample.take(passed_s / 60)
            await asyncio.sleep(5)
        for caller in callers:
            caller.cancel()
        await asyncio.gather(*callers, return_exceptions=True)
    return answers


async def _caller(kind: str, ask: Round, answers: Counter[tuple[str, str]]) -> None:
    while True:
        answers[kind, await _outcome(ask)] += 1
        await asyncio.sleep(PAUSE_S)


async def _outcome(ask: Round) -> str:
    try:
        answer = await ask()
    except CutoutError as error:
        return _said(error.code)
    except grpc.aio.AioRpcError as error:
        return _said(error.code())
    except httpx.HTTPError as error:
        print(f"{type(error).__name__}: {error}", flush=True)
        return "failed"
    return _answered(answer) if isinstance(answer, httpx.Response) else "done"


def _answered(answer: httpx.Response) -> str:
    if answer.is_success:
        return "done"
    if answer.status_code in BUSY:
        return "told to wait"
    if answer.is_client_error:
        return "refused"
    print(answer.text, flush=True)
    return "failed"


def _said(code: grpc.StatusCode) -> str:
    if code in {grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.UNAVAILABLE}:
        return "told to wait"
    if code in {grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.CANCELLED, grpc.StatusCode.DEADLINE_EXCEEDED}:
        return "refused"
    print(code, flush=True)
    return "failed"


def _good(client: AsyncClient, rest: httpx.AsyncClient) -> dict[str, Round]:
    known, numbers = itertools.cycle(KNOWN), itertools.count(100)
    frames = [photograph(0, (240, 320))] * 12

    async def stored() -> None:
        uploaded = await client.upload(next(known))
        await client.segment_box(uploaded, BOX)
        await client.delete(uploaded)

    async def clicks() -> None:
        async with client.session(next(known)) as session:
            for box in boxes(5, SIZE):
                await session.box([box])

    async def live() -> None:
        async for frame in client.live(frames, boxes=[[60, 40, 200, 180]]):
            del frame

    async def stream() -> None:
        async for each in client.stream(next(known), boxes=boxes(12, SIZE)):
            del each

    def encoded() -> str:
        return base64.b64encode(next(known)).decode()

    return {
        "box": lambda: client.segment_box(next(known), BOX),
        "new picture": lambda: client.segment_box(jpeg(photograph(next(numbers), SIZE)), BOX),
        "words": lambda: client.segment_text(next(known), ["cat", "face"]),
        "everything": lambda: client.segment_everything(next(known), points_per_side=8),
        "stored picture": stored,
        "session": clicks,
        "live tracking": live,
        "stream": stream,
        "REST": lambda: rest.post("/v1/segment:box", json={"image": {"content": encoded()}, "boxes": JSON_BOX}),
        "REST form": lambda: rest.post(
            "/v1/segment:text", files={"image.content": next(known), "phrases": (None, "cat")}
        ),
    }


def _bad(client: AsyncClient, rest: httpx.AsyncClient, channel: grpc.aio.Channel, url: str) -> dict[str, Round]:
    known, rng, stub = itertools.cycle(KNOWN), np.random.default_rng(0), pb2_grpc.SegmentationServiceStub(channel)
    keys = b"{" + b",".join(b'"%x":0' % number for number in range(100_000)) + b"}"
    host, port = urlsplit(url).hostname, urlsplit(url).port

    async def cancelled() -> None:
        asking = asyncio.create_task(client.segment_everything(next(known)))
        await asyncio.sleep(float(rng.uniform(0, 0.3)))
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)  # Its cancellation is not that of this caller at the end.

    async def unread() -> None:
        request = pb2.StreamSegmentationRequest()
        request.box.image.content = next(known)
        for x_min, y_min, x_max, y_max in boxes(12, SIZE):
            request.box.boxes.add(x_min=x_min, y_min=y_min, x_max=x_max, y_max=y_max)
        call = stub.StreamSegmentation(request, metadata=(("x-api-key", BAD),), timeout=PATIENCE_S)
        await call.read()
        await asyncio.sleep(3)
        call.cancel()

    async def unfinished() -> None:
        _, writer = await asyncio.open_connection(host, port)
        writer.write(HEAD.encode() + bytes(1_000_000))
        with suppress(OSError):
            await writer.drain()
        await asyncio.sleep(2)
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()

    return {
        "cancelled": cancelled,
        "unread stream": unread,
        "unfinished body": unfinished,
        "noise": lambda: client.segment_box(rng.bytes(200_000), BOX),
        "wrong field": lambda: rest.post("/v1/segment:box", json={"image": {"content": "AA=="}, "boxen": []}),
        "100,000 keys": lambda: rest.post(
            "/v1/segment:box", content=keys, headers={"content-type": "application/json"}
        ),
        "cut off": lambda: client.segment_box(next(known)[:20_000], BOX),
    }


if __name__ == "__main__":
    run("endurance", measure, __doc__)
