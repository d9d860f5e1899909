"""The server's memory over 1,000 requests of many sizes, four in hand at a time.

    python benchmarks/memory.py [--model NAME] [--quick] [--json FILE]

Every fifth request brings a new picture of 0.25 to 4 megapixels, the others prompt on those before. Embeddings may take
256 MiB, so that their cache is full early and what grows after is growth.
"""

import asyncio
import time

import numpy as np
from cutout_client import AsyncClient
from harness.photographs import boxes, jpeg, photograph
from harness.plots import Lines
from harness.report import Row, Table
from harness.scenario import Plan, run
from harness.servers import Running

SIDES = ((448, 576), (896, 1152), (1200, 1600), (1728, 2304))
IN_HAND = 4


def measure(plan: Plan) -> list[Table]:
    """Resident memory after every fiftieth of the requests, and its slope over the second half."""
    requests = plan.count(1000, 40)
    with plan.serving(plan.subject, embeddings_cache_bytes=256 * 2**20) as server:
        points = asyncio.run(drive(server, requests))
        peak = server.peak_bytes()
    half = [row for row in points if row["requests"] >= requests / 2]
    slope = np.polyfit([row["requests"] for row in half], [row["resident MiB"] for row in half], 1)[0]
    summary: Row = {
        "requests": requests,
        "ready MiB": points[0]["resident MiB"],
        "half-way MiB": half[0]["resident MiB"],
        "end MiB": points[-1]["resident MiB"],
        "peak MiB": peak / 2**20,
        "MiB per 100 requests, second half": float(slope) * 100,
        "seconds": points[-1]["seconds"],
    }
    title = f"Memory over {requests} requests, {plan.subject.name}"
    figure = Lines("requests", "resident MiB", ("requests", "resident memory, MiB"))
    return [Table(title, [summary]), Table(f"{title}: as it went", points, figure)]


async def drive(server: Running, requests: int) -> list[Row]:
    """Asks, and reads the process's memory on the way."""
    rng = np.random.default_rng(0)
    started = time.perf_counter()
    points: list[Row] = [{"requests": 0, "seconds": 0.0, "resident MiB": server.memory_bytes() / 2**20}]
    done = 0
    queue: asyncio.Queue[tuple[bytes, np.ndarray]] = asyncio.Queue(IN_HAND)

    async def ask(client: AsyncClient) -> None:
        nonlocal done
        while True:
            file, prompts = await queue.get()
            await client.segment_box(file, prompts)
            done += 1
            if done % max(1, requests // 50) == 0:
                seconds = time.perf_counter() - started
                points.append({"requests": done, "seconds": seconds, "resident MiB": server.memory_bytes() / 2**20})
            queue.task_done()

    async with AsyncClient(server.address, timeout_s=600) as client:
        callers = [asyncio.create_task(ask(client)) for _ in range(IN_HAND)]
        recent: list[tuple[bytes, tuple[int, int]]] = []
        for index in range(requests):
            if index % 5 == 0:
                size = SIDES[int(rng.integers(len(SIDES)))]
                recent = [*recent[-3:], (await asyncio.to_thread(jpeg, photograph(index, size)), size)]
            file, size = recent[int(rng.integers(len(recent)))] if index % 5 else recent[-1]
            await queue.put((file, boxes(int(rng.integers(1, 9)), size)))
        finished = asyncio.create_task(queue.join())
        await asyncio.wait([finished, *callers], return_when=asyncio.FIRST_COMPLETED)
        for caller in callers:
            if caller.done():
                caller.result()  # Raises what ended it.
            caller.cancel()
    return points


if __name__ == "__main__":
    run("memory", measure, __doc__)
