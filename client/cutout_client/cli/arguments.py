"""What argparse does not do by itself: negative numbers as values, and hints at flags that were misspelt."""

import argparse
import re
from collections.abc import Sequence
from difflib import get_close_matches

# Negative numbers and lists of them, such as `-5,10,200,220`; argparse itself knows plain ones alone, such as `-5`.
_NEGATIVE = re.compile(r"-(?!\d*\.?\d+$)\.?\d[\d.]*(e[-+]?\d+)?(,.*)?", re.IGNORECASE)


def with_negative_numbers(arguments: Sequence[str]) -> list[str]:
    """The arguments, with a space before each negative number that argparse would take for a flag.

    Only what begins with a dash can be a flag, and numbers are read with spaces around them.
    """
    return [f" {argument}" if _NEGATIVE.fullmatch(argument) else argument for argument in arguments]


def refuse(parser: argparse.ArgumentParser, unknown: Sequence[str]) -> None:
    """Ends the program for flags that a command does not have, with those that it has."""
    known = re.findall(r"--[\w-]+", parser.format_help())
    near = {flag: get_close_matches(flag.split("=")[0], known, 1) for flag in unknown if flag.startswith("-")}
    hints = [f"; did you mean {matches[0]}?" for matches in near.values() if matches]
    parser.error(f"unrecognized arguments: {' '.join(unknown)}{''.join(hints)}")
