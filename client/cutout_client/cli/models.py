"""`cutout models`: which a server has, loading and unloading; which there are to be had, and fetching them."""

import argparse
from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

from cutout_client.cli import connection, console, weights
from cutout_client.status import Model
from cutout_client.transport import LOAD_TIMEOUT_S

ACTIONS = ("list", "show", "load", "unload", "pull", "export", "compile")


def add_to(commands: Any) -> None:
    """Adds the command."""
    parser = commands.add_parser(
        "models",
        help="list, show, load, unload, download and export models",
        description="Asks a server about its models; with --known, or to pull, export or compile, looks at this "
        "machine instead. What export and compile leave in the server's weights_dir, it loads at its start.",
    )
    parser.add_argument("action", nargs="?", choices=ACTIONS, default="list", help="default: list")
    parser.add_argument(
        "name", nargs="?", metavar="NAME", help="of the model; or a profile's to pull, export or compile"
    )
    parser.add_argument("--known", action="store_true", help="list or show what can be pulled, without a server")
    weights.add_to(parser)
    parser.add_argument("--device", default="", help="to load onto, unload from or compile for: cpu, cuda:0 ...")
    parser.add_argument("--json", action="store_true", help="print JSON")
    connection.add_to(parser)
    parser.set_defaults(run=run, takes_others=False)


def run(args: argparse.Namespace) -> int:
    """Does it and prints the models that it concerned."""
    if (args.action == "list") != (args.name is None):
        args.parser.error(f"{args.action} takes {'no' if args.name else 'a'} NAME")
    if args.action in weights.ACTIONS:
        return weights.ACTIONS[args.action](args)
    if args.known:
        if args.action not in {"list", "show"}:
            args.parser.error(f"{args.action} has no use for --known")
        return weights.show_known(args)
    with connection.connect(args) as client:
        match args.action:
            case "list":
                found = client.models()
            case "show":
                found = (client.model(args.name),)
            case "load":
                found = (client.load_model(args.name, args.device, timeout_s=max(args.timeout, LOAD_TIMEOUT_S)),)
            case _:
                found = (client.unload_model(args.name, args.device),)
    if args.json:
        console.write_json([asdict(model) for model in found])
    elif args.action == "list":
        _print_list(found)
    else:
        _print_one(found[0])
    return 0


def _print_list(models: Iterable[Model]) -> None:
    table = console.table("MODEL", "FAMILY", "TASKS (* default)", "LOADED ON", "MEMORY", right=("MEMORY",))
    for model in models:
        table.add_row(model.name, model.family, _tasks(model), ", ".join(model.loaded_on) or "-", _memory(model))
    console.stdout().print(table)


def _print_one(model: Model) -> None:
    table = console.table("", "")
    table.show_header = False
    table.add_row("name", model.name)
    table.add_row("family", model.family)
    table.add_row("tasks", f"{_tasks(model)}  (* default)" if model.default_for else _tasks(model))
    table.add_row("loaded on", ", ".join(model.loaded_on) or "-")
    table.add_row("memory", _memory(model))
    if model.engines:
        table.add_row("engine", ", ".join(model.engines))
    if model.exemplars:
        table.add_row("exemplars", "--exemplar and --not-like may show it what to find")
    if model.description:
        table.add_row("description", model.description)
    if model.vocabulary:
        table.add_row("vocabulary", ", ".join(model.vocabulary))
    console.stdout().print(table)


def _tasks(model: Model) -> str:
    return ", ".join(f"{task}*" if task in model.default_for else task for task in model.tasks)


def _memory(model: Model) -> str:
    return console.in_bytes(model.memory_bytes) if model.memory_bytes else "-"
