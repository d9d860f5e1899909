"""`python -m cutout_gateway`: runs the gateway until SIGTERM or SIGINT."""

import signal
import socket
import sys

import structlog
import uvicorn
from cutout_common import logs, status
from cutout_common.config import ConfigError
from cutout_common.distribution import build

from cutout_gateway.app import create_app
from cutout_gateway.connection import Serving
from cutout_gateway.listener import listen
from cutout_gateway.settings import GatewaySettings


class _Server(uvicorn.Server):
    """Says where it listens once it does."""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        host, port = (sockets or [])[0].getsockname()[:2]
        scheme = "https" if self.config.is_ssl else "http"
        url = f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"
        structlog.get_logger("cutout_gateway").info(f"gateway listening on {url}", host=host, port=port, **build())


def main(args: list[str] | None = None) -> int:
    """Runs the gateway.

    Args:
        args: The command line without the program; the process's own when it is left out.

    Returns:
        0 after a graceful stop, 2 when the settings cannot be used.
    """
    try:
        settings = GatewaySettings.load(sys.argv[1:] if args is None else args)
        listener = listen(settings.host, settings.port)
        config = Serving(create_app(settings), settings)
    except (ConfigError, OSError) as error:
        sys.stderr.write(f"cutout_gateway: {error}\n")
        return 2
    logs.configure(settings.log_format, settings.log_level)
    status.link_to(settings.errors_page)
    # uvicorn raises the signal that stopped it once more when it has drained; a graceful stop is a success.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: sys.exit(0))
    _Server(config).run(sockets=[listener])
    return 0


if __name__ == "__main__":
    sys.exit(main())
