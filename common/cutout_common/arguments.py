"""How programs answer flags that cannot be used: by one line and what was probably meant. Usage is for `--help`."""

import argparse
import re
from collections.abc import Iterable
from difflib import get_close_matches
from typing import Any, NoReturn


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are one line; flags are never abbreviated."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **{"allow_abbrev": False} | options)

    def error(self, message: str) -> NoReturn:
        """Ends the program with 2."""
        self.exit(2, f"{self.prog}: error: {message}{self._meant(message)} (`{self.prog} --help` lists all)\n")

    def _meant(self, message: str) -> str:
        if unknown := re.match(r"unrecognized arguments: (.*)", message, re.DOTALL):
            flags = (word.split("=")[0] for word in unknown[1].split() if word.startswith("-"))
            return _hints(flags, re.findall(r"--[\w-]+", self.format_help()))
        if wrong := re.search(r"invalid choice: '(.*)' \(choose from (.*)\)", message, re.DOTALL):
            return _hints([wrong[1]], re.findall(r"[\w-]+", wrong[2]))
        return ""


def _hints(words: Iterable[str], known: list[str]) -> str:
    near = dict.fromkeys(match for word in words for match in get_close_matches(word, known, 1))
    return f"; did you mean {' or '.join(near)}?" if near else ""
