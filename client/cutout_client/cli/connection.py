"""The flags with which every command finds its server."""

import argparse
import os

from cutout_common.address import check

from cutout_client.client import Client
from cutout_client.connection import MAX_RETRIES, Connection, ConnectionOptions


def add_to(parser: argparse.ArgumentParser) -> None:
    """Adds the flags to a command."""
    group = parser.add_argument_group("server")
    group.add_argument(
        "--server",
        metavar="HOST:PORT",
        type=_address,
        default=os.environ.get("CUTOUT_CLIENT_SERVER", Connection.address),
        help="where it is; several with commas between, or dns:///NAME:PORT for all that a name has "
        f"(default: $CUTOUT_CLIENT_SERVER, or {Connection.address})",
    )
    group.add_argument(
        "--api-key",
        metavar="KEY",
        default=os.environ.get("CUTOUT_CLIENT_API_KEY", ""),
        help="better given as $CUTOUT_CLIENT_API_KEY, which other users of this machine cannot see",
    )
    group.add_argument("--tls", action="store_true", help="talk TLS")
    group.add_argument("--ca", metavar="FILE", help="PEM authorities to trust (default: the usual ones)")
    group.add_argument("--cert", metavar="FILE", help="PEM certificate to show to the server")
    group.add_argument("--key", metavar="FILE", help="PEM private key of --cert")
    group.add_argument(
        "--timeout",
        metavar="SECONDS",
        type=float,
        default=Connection.timeout_s,
        help="of each call (default: %(default)g)",
    )
    group.add_argument(
        "--retries",
        metavar="N",
        type=int,
        default=Connection.retries,
        help=f"while the server is unavailable, 0 to {MAX_RETRIES}; 0: nor when it is full (default: %(default)s)",
    )


def _address(text: str) -> str:
    try:
        return check(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def connect(args: argparse.Namespace) -> Client:
    """The client that the flags describe."""
    how: ConnectionOptions = {
        "api_key": args.api_key,
        "timeout_s": args.timeout,
        "retries": args.retries,
        "tls": args.tls,
        "root_certificates": args.ca,
        "client_certificate": args.cert,
        "client_key": args.key,
        "max_in_flight": max(Connection.max_in_flight, getattr(args, "jobs", 1)),  # --jobs says how many
    }
    return Client(args.server, **how)
