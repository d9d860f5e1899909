"""`cutout bridge`: a Cutout server behind the interface of an annotation tool."""

import argparse
import importlib
import os
from typing import Any

from cutout_common.distribution import install_hint

from cutout_client.bridges.label_studio import KINDS, LabelStudioBackend
from cutout_client.bridges.task_pictures import Host
from cutout_client.cli import connection, console


def add_to(commands: Any) -> None:
    """Adds the command."""
    parser = commands.add_parser(
        "bridge",
        help="stand behind an annotation tool: Label Studio",
        description="Runs a machine learning backend that Label Studio's projects connect to: smart rectangles and key "
        "points become masks, and labels or words what they name. Masks are brush strokes or polygons, as the "
        "project's labelling interface has them.",
    )
    parser.add_argument("tool", choices=["label-studio"])
    parser.add_argument("--host", default="127.0.0.1", metavar="ADDRESS", help="to listen at (default: %(default)s)")
    parser.add_argument("--port", type=int, default=9090, help="to listen at (default: %(default)s)")
    parser.add_argument("--output", choices=KINDS, default="auto", help="where an interface has both (default: brush)")
    parser.add_argument(
        "--polygon-tolerance",
        type=float,
        default=1.0,
        metavar="PIXELS",
        help="fewer vertices, this far off at most (default: %(default)g)",
    )
    parser.add_argument("--segmenter", "--model", default="", metavar="NAME", help="model that cuts out")
    parser.add_argument("--detector", default="", metavar="NAME", help="model that finds what words name")
    parser.add_argument(
        "--label-studio-url",
        default=os.environ.get("LABEL_STUDIO_URL", ""),
        metavar="URL",
        help="where Label Studio keeps pictures (default: $LABEL_STUDIO_URL, or where it says at setup); its key is "
        "$LABEL_STUDIO_API_KEY",
    )
    parser.add_argument(
        "--basic-auth",
        default=os.environ.get("CUTOUT_BRIDGE_BASIC_AUTH", ""),
        metavar="USER:PASSWORD",
        help="to ask of Label Studio (default: $CUTOUT_BRIDGE_BASIC_AUTH, or nothing)",
    )
    connection.add_to(parser)
    parser.set_defaults(run=run, takes_others=False)


def run(args: argparse.Namespace) -> int:
    """Serves until it is told to end."""
    try:
        http = importlib.import_module("cutout_client.bridges.http")
    except ImportError as error:
        raise ValueError(f"this needs the package {error.name}: {install_hint('bridge')}") from error
    url = args.label_studio_url
    host = Host(url, os.environ.get("LABEL_STUDIO_API_KEY", "")) if url else None
    with connection.connect(args) as client:
        names = {name: getattr(args, name) for name in ("output", "segmenter", "detector", "polygon_tolerance")}
        app = http.label_studio_app(LabelStudioBackend(client, host=host, **names), basic_auth=args.basic_auth)
        if client.health() != "serving":
            console.write_warning(f"the server at {args.server} takes no requests yet")
        console.stdout().print(f"Label Studio finds this at http://{args.host}:{args.port}", soft_wrap=True)
        http.serve(app, args.host, args.port)
    return 0
