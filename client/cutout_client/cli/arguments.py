"""What argparse does not do by itself: negative numbers as values."""

import re
from collections.abc import Sequence

# Negative numbers and lists of them, such as `-5,10,200,220`; argparse itself knows plain ones alone, such as `-5`.
_NEGATIVE = re.compile(r"-(?!\d*\.?\d+$)\.?\d[\d.]*(e[-+]?\d+)?(,.*)?", re.IGNORECASE)


def with_negative_numbers(arguments: Sequence[str]) -> list[str]:
    """The arguments, with a space before each negative number that argparse would take for a flag.

    Only what begins with a dash can be a flag, and numbers are read with spaces around them.
    """
    return [f" {argument}" if _NEGATIVE.fullmatch(argument) else argument for argument in arguments]
