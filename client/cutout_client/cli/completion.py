"""`cutout completion`: what a shell must know to complete commands, flags, their words and files."""

import argparse
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import shtab

_FOLDERS = {"FOLDER", "DIR"}
_FILES = {"FILE", "IMAGE"}


def add_to(commands: Any, whole: Callable[[], argparse.ArgumentParser]) -> None:
    """Adds the command; `whole` makes the parser of all commands."""
    parser = commands.add_parser(
        "completion",
        help="print what completes commands and flags in a shell",
        description='Prints a script for a shell: eval "$(cutout completion bash)" in ~/.bashrc, or the same with zsh '
        "in ~/.zshrc; cutout completion fish | source in fish.",
    )
    parser.add_argument("shell", choices=shtab.SUPPORTED_SHELLS)
    parser.set_defaults(run=run, whole=whole, takes_others=False)


def run(args: argparse.Namespace) -> int:
    """Prints the script."""
    parser = args.whole()
    for action in _actions(parser):
        if action.type is Path or action.metavar in _FILES | _FOLDERS:
            action.complete = shtab.DIRECTORY if action.metavar in _FOLDERS else shtab.FILE  # type: ignore[attr-defined]
    sys.stdout.write(shtab.complete(parser, args.shell))
    return 0


def _actions(parser: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    """Those of a parser and of its commands."""
    for action in parser._actions:  # noqa: SLF001 - argparse lists them nowhere else, and shtab reads the same list
        yield action
        for command in action.choices.values() if isinstance(action.choices, dict) else ():
            if isinstance(command, argparse.ArgumentParser):
                yield from _actions(command)
