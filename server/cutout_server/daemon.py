"""Work that the end of the program need not wait for."""

import asyncio
import threading
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


async def in_daemon_thread(work: Callable[[], T], name: str) -> T:
    """Runs a blocking function in a thread that is left alone when the wait is cancelled or the program ends.

    An executor's threads would be waited for: a download of an hour would outlive the signal that ends the server.
    """
    loop = asyncio.get_running_loop()
    done: asyncio.Future[T] = loop.create_future()

    def settle(answer: T | None, error: BaseException | None) -> None:
        if done.done():
            return
        if error is None:
            done.set_result(answer)  # type: ignore[arg-type]
        else:
            done.set_exception(error)

    def run() -> None:
        try:
            answer, error = work(), None
        except BaseException as raised:  # noqa: BLE001 - it belongs to whoever waits
            answer, error = None, raised
        if not loop.is_closed():
            loop.call_soon_threadsafe(settle, answer, error)

    threading.Thread(target=run, name=name, daemon=True).start()
    return await done
