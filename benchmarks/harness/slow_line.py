"""`python slow_line.py FROM TO FILE`: a port in front of a port, as far away as FILE says, in seconds each way.

Where the kernel has `tc netem` that does the same; not every one has.
"""

import asyncio
import sys
from pathlib import Path


def delay_s(file: Path) -> float:
    """What the file says; nothing while it is being written."""
    return float(file.read_text() or 0)


async def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, file: Path) -> None:
    """Passes on what comes, each piece as late as the file says when it came, until the end."""
    loop = asyncio.get_running_loop()
    pieces: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()

    async def deliver() -> None:
        while True:
            due, piece = await pieces.get()
            await asyncio.sleep(max(0.0, due - loop.time()))
            if not piece:
                break
            writer.write(piece)
            await writer.drain()
        writer.close()

    delivering = asyncio.create_task(deliver())
    try:
        while piece := await reader.read(2**18):
            pieces.put_nowait((loop.time() + delay_s(file), piece))
    except ConnectionError:
        pass
    pieces.put_nowait((loop.time(), b""))
    await asyncio.gather(delivering, return_exceptions=True)


async def main(outside: int, inside: int, file: Path) -> None:
    """Serves for ever."""

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            there = await asyncio.open_connection("127.0.0.1", inside)
        except OSError:
            writer.transport.abort()
            return
        await asyncio.gather(carry(reader, there[1], file), carry(there[0], writer, file))

    async with await asyncio.start_server(connected, "0.0.0.0", outside) as server:  # noqa: S104 - a namespace's own
        await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])))
