"""`python -m cutout_server`: flags, environment and YAML to a running server."""

import asyncio
import contextlib
import os
import signal
import sys
import threading

import structlog
from cutout_common import heap, logs, status
from cutout_common.config import ConfigError

from cutout_server.app import App
from cutout_server.errors import CutoutError
from cutout_server.settings import Settings

log = structlog.get_logger()


def main(args: list[str] | None = None) -> int:
    """Runs until SIGTERM or SIGINT; 0 when it ended well, 1 when it could not start, 2 when the settings are wrong."""
    args = sys.argv[1:] if args is None else args
    try:
        settings = Settings.load(args)
        heap.keep_freed()
        logs.configure(settings.log_format, settings.log_level)
        status.link_to(settings.errors_page)
        return asyncio.run(_run(settings, args))
    except ConfigError as error:
        sys.stderr.write(f"cutout: {error}\n")
        return 2


async def _run(settings: Settings, args: list[str]) -> int:
    stopping = asyncio.Event()
    for name in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(name, stopping.set)
    app = App(settings)
    asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, Keys(app, args).read_again)
    app.announce()
    try:
        await app.start()
        serving = asyncio.ensure_future(app.serve())
        waiting = asyncio.ensure_future(stopping.wait())
        await asyncio.wait({serving, waiting}, return_when=asyncio.FIRST_COMPLETED)
        if serving.done():
            serving.result()
        await waiting
    except (OSError, CutoutError) as error:
        log.error("cannot start", error=str(error))  # noqa: TRY400 - its text says it all
        return 1
    finally:
        await app.stop()
    return 0


class Keys:
    """Reads the settings again, beside the loop and one at a time: the file may be long, or on a disk that hangs."""

    def __init__(self, app: App, args: list[str]) -> None:
        self._app = app
        self._args = args
        self._loop = asyncio.get_running_loop()
        self._reads = self._asked = False

    def read_again(self) -> None:
        """Lets in whom the settings name by now; asked while they are read, they are read once more."""
        self._asked = True
        if not self._reads:
            self._reads, self._asked = True, False
            threading.Thread(target=self._read, name="keys", daemon=True).start()

    def _read(self) -> None:
        settings = None
        try:
            settings = Settings.load(self._args)
        except (ConfigError, OSError) as error:
            log.error("settings not read again; the keys before go on", error=str(error))  # noqa: TRY400
        with contextlib.suppress(RuntimeError):  # The server has ended meanwhile.
            self._loop.call_soon_threadsafe(self._done, settings)

    def _done(self, settings: Settings | None) -> None:
        self._reads = False
        if settings is not None:
            self._app.admit(settings)
        if self._asked:
            self.read_again()


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    sys.stderr.flush()
    # Everything is closed. A pass that outlived the drain cannot be interrupted, and a usual exit would wait for it.
    os._exit(code)
