"""`cutout health`: whether requests are taken, for scripts and container checks."""

import argparse
import time
from typing import Any

from cutout_client.cli import connection, console
from cutout_client.client import Client
from cutout_client.errors import UnavailableError

PAUSE_S = 0.2


def add_to(commands: Any) -> None:
    """Adds the command."""
    parser = commands.add_parser("health", help="exit with 0 when the server takes requests", allow_abbrev=False)
    parser.add_argument("--service", default="", help="such as cutout.v1.SegmentationService (default: the whole)")
    parser.add_argument(
        "--wait", metavar="SECONDS", type=float, default=0.0, help="for it to serve (default: not at all)"
    )
    connection.add_to(parser)
    parser.set_defaults(run=run, takes_others=False)


def run(args: argparse.Namespace) -> int:
    """Prints what the health check says; 0 only for `serving`."""
    until = time.monotonic() + args.wait
    with connection.connect(args) as client:
        while (state := _ask(client, args.service)) != "serving" and time.monotonic() < until:
            time.sleep(PAUSE_S)
    console.stdout().print(state)
    return int(state != "serving")


def _ask(client: Client, service: str) -> str:
    try:
        return client.health(service)
    except UnavailableError:
        return "unreachable"
