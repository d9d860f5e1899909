"""`cutout health`: whether requests are taken, for scripts and container checks."""

import argparse
import time
from typing import Any

from cutout_client.cli import connection, console
from cutout_client.client import Client
from cutout_client.errors import CutoutError, DeadlineError, UnavailableError

PAUSE_S = 0.2


def add_to(commands: Any) -> None:
    """Adds the command."""
    parser = commands.add_parser("health", help="exit with 0 when the server takes requests")
    parser.add_argument("--service", default="", help="such as cutout.v1.SegmentationService (default: the whole)")
    parser.add_argument(
        "--wait", metavar="SECONDS", type=float, default=0.0, help="for it to serve (default: not at all)"
    )
    connection.add_to(parser)
    parser.set_defaults(run=run, takes_others=False)


def run(args: argparse.Namespace) -> int:
    """Prints what the health check says, and why it says nothing; 0 only for `serving`."""
    until = time.monotonic() + args.wait
    with connection.connect(args) as client:
        state, error = _ask(client, args, until)
        while state != "serving" and time.monotonic() < until:
            time.sleep(PAUSE_S)
            state, error = _ask(client, args, until)
    console.stdout().print(state)
    if error:
        console.write_error(str(error))
    return int(state != "serving")


def _ask(client: Client, args: argparse.Namespace, until: float) -> tuple[str, CutoutError | None]:
    left_s = max(until - time.monotonic(), PAUSE_S)
    try:
        return client.health(args.service, timeout_s=min(args.timeout, left_s) if args.wait else args.timeout), None
    except (UnavailableError, DeadlineError) as error:
        return "unreachable", error
