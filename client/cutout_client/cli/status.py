"""`cutout status`: devices, queues and caches."""

import argparse
import time
from dataclasses import asdict
from typing import Any

from rich.console import Group, RenderableType
from rich.live import Live
from rich.text import Text

from cutout_client.cli import connection, console
from cutout_client.client import Client
from cutout_client.status import CacheStatus, DeviceStatus, ServerStatus

WATCH_S = 1.0


def add_to(commands: Any) -> None:
    """Adds the command."""
    parser = commands.add_parser("status", help="show devices, queues and caches")
    parser.add_argument("--watch", action="store_true", help="show them again every second, until interrupted")
    parser.add_argument("--json", action="store_true", help="print JSON; with --watch one document a line")
    connection.add_to(parser)
    parser.set_defaults(run=run, takes_others=False)


def run(args: argparse.Namespace) -> int:
    """Prints the status."""
    with connection.connect(args) as client:
        if args.json:
            _print_json(client, watch=args.watch)
        elif args.watch:
            with Live(_render(client.status(), args.server), console=console.stdout(), auto_refresh=False) as live:
                while True:
                    time.sleep(WATCH_S)
                    live.update(_render(client.status(), args.server), refresh=True)
        else:
            console.stdout().print(_render(client.status(), args.server))
    return 0


def _print_json(client: Client, *, watch: bool) -> None:
    console.write_json(asdict(client.status()))
    while watch:
        time.sleep(WATCH_S)
        console.write_json(asdict(client.status()))


def _render(status: ServerStatus, address: str) -> RenderableType:
    up = console.in_time(status.uptime_seconds)
    heading = Text.assemble(
        ("cutout ", "bold"),
        status.version,
        f" ({status.commit})" if status.commit else "",
        f" at {address}: ",
        (status.state, _STYLES.get(status.state, "")),
        f", up {up}",
    )
    numbers = ("REQUESTS", "QUEUED", "JOBS", "PER BATCH", "MODELS", "EMBEDDINGS", "HITS")
    table = console.table("DEVICE", *numbers, right=numbers)
    for device in status.devices:
        table.add_row(*_row(device))
    store = status.image_store
    pictures = f"{store.images} stored, {console.in_bytes(store.bytes)} of {console.in_bytes(store.capacity_bytes)}"
    lines = [Text(f"Pictures: {pictures}")]
    if status.answers.capacity_bytes:
        kept = f"{status.answers.entries} kept, {console.in_bytes(status.answers.bytes)}"
        bound = console.in_bytes(status.answers.capacity_bytes)
        lines.append(Text(f"Answers: {kept} of {bound}, hits {_hit_rate(status.answers)}"))
    return Group(heading, Text(), table, Text(), *lines, *_callers(status))


def _callers(status: ServerStatus) -> list[RenderableType]:
    """A table of what each caller uses; nothing from servers that do not say."""
    if not status.callers:
        return []
    numbers = ("REQUESTS", "SESSIONS", "PICTURES", "UPLOADS")
    table = console.table("CALLER", *numbers, right=numbers)
    for caller in status.callers:
        table.add_row(
            caller.name,
            str(caller.requests_in_hand),
            str(caller.sessions),
            f"{caller.stored_images}, {console.in_bytes(caller.stored_bytes)}",
            f"{caller.unfinished_uploads}, {console.in_bytes(caller.unfinished_upload_bytes)}",
        )
    return [Text(), table]


_STYLES = {"serving": "green", "starting": "yellow", "draining": "yellow"}


def _row(device: DeviceStatus) -> tuple[str, ...]:
    budget = f" of {console.in_bytes(device.memory_budget_bytes)}" if device.memory_budget_bytes else ""
    return (
        device.name,
        f"{device.requests}/{device.capacity}",
        str(device.queued_jobs),
        str(device.jobs),
        f"{device.jobs / device.batches:.1f}" if device.batches else "-",
        console.in_bytes(device.model_bytes) + budget,
        f"{device.embeddings.entries}, {console.in_bytes(device.embeddings.bytes)}",
        _hit_rate(device.embeddings),
    )


def _hit_rate(cache: CacheStatus) -> str:
    asked = cache.hits + cache.misses
    return f"{cache.hits / asked:.0%}" if asked else "-"
