"""The command line, `cutout`: each command is a module here."""

import argparse
import sys
from collections.abc import Sequence

from cutout_common.arguments import Parser
from cutout_common.distribution import PrintVersion

from cutout_client.cli import (
    analyze,
    bench,
    bridge,
    completion,
    console,
    generate,
    health,
    models,
    protos,
    segment,
    serve,
    status,
    track,
)
from cutout_client.cli.arguments import with_negative_numbers
from cutout_client.cli.stopping import INTERRUPTED
from cutout_client.errors import CutoutError

COMMANDS = (segment, track, analyze, generate, models, status, health, protos, bench, bridge, serve)

FAILED = 1


def parser() -> argparse.ArgumentParser:
    """Every command with its flags."""
    root = Parser(prog="cutout", description="A picture and a prompt in, masks out.")
    root.set_defaults(parser=root, run=show_commands, takes_others=False)
    commands = root.add_subparsers(title="commands", metavar="COMMAND")
    for command in COMMANDS:
        command.add_to(commands)
    completion.add_to(commands, whole=parser)
    for each in commands.choices.values():
        each.set_defaults(parser=each)
    for each in (root, *commands.choices.values()):
        each.add_argument("--version", action=PrintVersion)
    return root


def show_commands(args: argparse.Namespace) -> int:
    """What there is to do, for whoever names nothing; 2, as for other flags that cannot be used."""
    args.parser.print_help()
    return 2


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command.

    Returns:
        The exit status: 0 when all went well, 1 when something failed, 2 for flags that cannot be used.
    """
    given = sys.argv[1:] if arguments is None else arguments
    args, others = parser().parse_known_args(with_negative_numbers(given))
    if others and not args.takes_others:
        args.parser.error(f"unrecognized arguments: {' '.join(others)}")
    args.others = others
    try:
        return int(args.run(args))
    except (CutoutError, ImportError, OSError, TypeError, ValueError) as error:
        console.write_error(str(error))
        return FAILED
    except KeyboardInterrupt:
        return INTERRUPTED
