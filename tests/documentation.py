"""The documents' code blocks, and somebody who follows them beside a server on free ports."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cutout_client import cli
from cutout_client.cli import serve
from cutout_gateway.app import create_app
from cutout_gateway.settings import GatewaySettings
from cutout_server.catalogue import Catalogue
from cutout_server.settings import Settings
from waiting import PATIENCE_S

ROOT = Path(__file__).parent.parent
FENCE = re.compile(r"^```(?P<language>\w*)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)
INLINE = re.compile(r"`(?P<command>(?:cutout|python|make|pip) [^`]*)`")
SERVER, GATEWAY = "localhost:50051", r"(localhost|127\.0\.0\.1):8080"
BIN = Path(sys.executable).parent
# curl ends well whatever the status is, and an example is to be answered.
CURL = """#!/bin/sh
case " $* " in
  *" --fail "*) exec {curl} "$@" ;;
  *) exec {curl} --fail-with-body "$@" ;;
esac
"""


@dataclass(frozen=True)
class Block:
    """One code block.

    Attributes:
        path: Of its document, in the repository.
        line: Of its first line of code, from 1.
        language: As it says.
        text: The code.
    """

    path: str
    line: int
    language: str
    text: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}"

    @property
    def commands(self) -> list[str]:
        """Its lines without comments, those that go on in the next line joined."""
        joined = self.text.replace("\\\n", " ")
        lines = [re.sub(r"(^|\s+)# .*", "", line).strip() for line in joined.splitlines()]
        return [line for line in lines if line]


def documents() -> list[str]:
    """Every Markdown file of the repository."""
    listed = subprocess.run(["git", "ls-files", "*.md"], cwd=ROOT, capture_output=True, text=True, check=True)
    return listed.stdout.splitlines()


def blocks(path: str) -> list[Block]:
    """The blocks of a document, in their order."""
    text = (ROOT / path).read_text("utf-8")
    return [
        Block(path, text[: found.start("text")].count("\n") + 1, found["language"], found["text"])
        for found in FENCE.finditer(text)
    ]


def inline_commands(path: str) -> Iterator[str]:
    """The commands that a document's sentences name."""
    text = FENCE.sub("", (ROOT / path).read_text("utf-8"))
    yield from (" ".join(found["command"].split()) for found in INLINE.finditer(text))


def check_command(command: str) -> None:
    """What can be known of a command without running it: its program knows its flags."""
    for words in _simple(command):
        match words:
            case ["cutout", *arguments]:
                args, others = cli.parser().parse_known_args(arguments)
                assert args.takes_others or not others, command
                if args.takes_others:  # They are the programs' own.
                    gateway, server = serve.split(others)
                    Settings.load(server)
                    create_app(GatewaySettings.load(gateway))
            case ["make", *_]:
                planned = subprocess.run(["make", "--dry-run", *words[1:]], cwd=ROOT, capture_output=True, text=True)
                assert planned.returncode == 0, planned.stderr
            case ["python", script, *flags] if script.endswith(".py"):
                source = (ROOT / script).read_text("utf-8")
                shared = "".join(path.read_text("utf-8") for path in (ROOT / script).parent.glob("harness/*.py"))
                assert all(f'"{flag}"' in source + shared for flag in flags if flag.startswith("--")), command


def _simple(command: str) -> Iterator[list[str]]:
    """The words of each command of a pipeline or list."""
    lexer = shlex.shlex(command, posix=True, punctuation_chars="|&;")
    lexer.whitespace_split = True
    words: list[str] = []
    for token in lexer:
        if token.strip("|&;"):
            words.append(token)
            continue
        yield words
        words = []
    yield words


def load_settings(text: str, folder: Path) -> Settings:
    """A settings file, as the server reads it; what lies in /etc/cutout is in `folder` here."""
    file = folder / "cutout.yaml"
    file.write_text(text.replace("/etc/cutout", str(folder)), "utf-8")
    settings = Settings.load(["--config", str(file)])
    Catalogue.of(settings)
    return settings


@dataclass
class Reader:
    """Follows a document, block by block.

    Attributes:
        folder: Where the pictures are, and where files go.
        server: Address of the server that takes the place of localhost:50051.
        gateway: Address of the gateway that takes the place of localhost:8080.
        names: What the blocks of Python have defined.
    """

    folder: Path
    server: str
    gateway: str
    names: dict[str, Any] = field(default_factory=dict)

    def here(self, text: str) -> str:
        """The text with the addresses that are here."""
        return re.sub(GATEWAY, self.gateway, text.replace(SERVER, self.server))

    def python(self, block: Block) -> None:
        """Runs a block in the folder, which is the current one, after those before it."""
        code = compile("\n" * (block.line - 1) + self.here(block.text), block.path, "exec")
        exec(code, self.names)  # noqa: S102 - our own documents

    def shell(self, commands: list[str]) -> str:
        """Runs commands in a shell that ends at the first that fails; gives what they print."""
        script = "set -euo pipefail\n" + self.here("\n".join(commands))
        return self.run(["bash", "-c", script])

    def run(self, command: list[str]) -> str:
        """Runs a program in the folder; it must end well."""
        tools = self.folder / "bin"
        tools.mkdir(exist_ok=True)
        (tools / "curl").write_text(CURL.format(curl=shutil.which("curl")))
        (tools / "curl").chmod(0o755)
        env = os.environ | {"CUTOUT_CLIENT_SERVER": self.server, "PATH": f"{tools}:{BIN}:{os.environ['PATH']}"}
        done = subprocess.run(
            command, cwd=self.folder, env=env, capture_output=True, text=True, timeout=PATIENCE_S, check=False
        )
        assert done.returncode == 0, f"{command[-1]}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
        return done.stdout
