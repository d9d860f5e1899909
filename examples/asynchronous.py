"""Finds what stands out in many photographs at once. Needs a server: `cutout serve`."""

import asyncio
import sys

from cutout_client import AsyncClient, CutoutError


async def segment(client: AsyncClient, path: str) -> str:
    try:
        result = await client.segment_text(path, ["foreground"])
    except CutoutError as error:
        return f"{path}: {error}"
    return f"{path}: {len(result)} objects in {result.timings.total_ms:.0f} ms"


async def main(paths: list[str]) -> None:
    async with AsyncClient("localhost:50051") as client:
        for line in asyncio.as_completed([segment(client, path) for path in paths]):
            print(await line)


asyncio.run(main(sys.argv[1:]))
