"""What is installed: the distribution's name, its version and its commit."""

import argparse
import sys
from typing import Any

from cutout_common import __version__
from cutout_common.commit import commit

# As pyproject.toml has it. The imports and the program are called cutout; `cutout` on PyPI is another project.
NAME = "cutout-service"


def install_hint(extra: str) -> str:
    """The command that adds an extra to an installation, whether that came from a checkout or from an index."""
    return f"pip install '{NAME}[{extra}]'"


def build() -> dict[str, str]:
    """Version and commit, as logs, metrics and GetStatus tell them."""
    return {"version": __version__, "commit": commit()}


class PrintVersion(argparse.Action):
    """`--version`. argparse's own wants the text beforehand, which would ask git at every start."""

    def __init__(self, option_strings: list[str], dest: str) -> None:
        super().__init__(option_strings, dest, nargs=0, default=argparse.SUPPRESS, help="print the version, and exit")

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        """Prints it, and ends the program with 0."""
        sys.stdout.write("cutout {version} (commit {commit})\n".format_map(build()))
        parser.exit()
