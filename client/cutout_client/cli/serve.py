"""`cutout serve` and `cutout config`: the server and the gateway as child processes."""

import argparse
import asyncio
import contextlib
import ctypes
import importlib
import importlib.util
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Sequence
from typing import Any

from cutout_common import forwarded
from cutout_common.distribution import install_hint

from cutout_client.cli import console, sagemaker

PROGRAMS = {"server": "cutout_server", "gateway": "cutout_gateway"}
EXTRAS = {"server": "builtin", "gateway": "gateway"}
NEEDED = {"server": ("cv2", "prometheus_client", "structlog", "yaml"), "gateway": ("starlette", "structlog", "uvicorn")}

GATEWAY_PREFIX = "--gateway-"

PR_SET_PDEATHSIG = 1  # of sys/prctl.h

ALL_ADDRESSES = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}  # noqa: S104  # where to find what listens everywhere


def add_to(commands: Any) -> None:
    """Adds both commands."""
    serve = commands.add_parser(
        "serve",
        help="run the server with its metrics, and the REST gateway",
        usage="cutout serve [--only server|gateway] [--sagemaker] [--gateway-FLAG VALUE ...] [FLAG ...]",
        description="Runs the gRPC server with its metrics, and the REST gateway, until SIGTERM or Ctrl-C; a second "
        "one does not wait for accepted work. Every other FLAG is the server's (the gateway's with --only gateway), "
        "such as --port 50051 or --config FILE; `cutout config` shows what there is to set. With --gateway- before "
        "it, a FLAG is the gateway's, such as --gateway-port 8081 or --gateway-config FILE: `cutout config gateway`.",
    )
    serve.add_argument("--only", choices=PROGRAMS, help="run one of the two")
    serve.add_argument(
        "--sagemaker", action="store_true", help="as a SageMaker container: /ping, /invocations, its port and variables"
    )
    serve.add_argument("--log-format", metavar="FORMAT", help="json or console, of both")
    serve.add_argument("--log-level", metavar="LEVEL", help="debug, info, warning or error, of both")
    serve.set_defaults(run=run_serve, takes_others=True)
    config = commands.add_parser(
        "config",
        help="print the settings in force, as YAML",
        usage="cutout config [server|gateway] [FLAG ...]",
        description="Prints the settings that the server, or the gateway, would run with, in the form of the file that "
        "--config reads: flag > environment > file > default. Every FLAG is the program's own.",
    )
    config.set_defaults(run=run_config, takes_others=True)


def run_config(args: argparse.Namespace) -> int:
    """Prints the settings of one program."""
    named = bool(args.others) and args.others[0] in PROGRAMS
    program, flags = (args.others[0], args.others[1:]) if named else ("server", args.others)
    _require(program)
    command = _command(program, *flags, "--print-config")
    return subprocess.run(command, check=False).returncode  # noqa: S603  # our own program


def run_serve(args: argparse.Namespace) -> int:
    """Runs the programs until a signal or until one of them ends; 0 only after a signal and a clean end."""
    logs = _flags(args, log_format="log-format", log_level="log-level")
    if args.sagemaker:
        os.environ.update(sagemaker.environment(os.environ))
    gateway, others = split(sagemaker.flags(args.others) if args.sagemaker else args.others)
    if args.only == "server" and gateway:
        args.parser.error("--gateway-... has no use with --only server")
    for program in [args.only] if args.only else PROGRAMS:
        _require(program)
    if args.only == "server":
        commands = {"server": _command("server", *logs, *others)}
    elif args.only == "gateway":
        commands = {"gateway": _command("gateway", *logs, *gateway, *others)}
    else:
        flags, address = _settle(others)
        commands = {
            "server": _command("server", *logs, *flags),
            "gateway": _command("gateway", *logs, *gateway, f"--server-address={address}"),
        }
    return asyncio.run(_supervise(commands))


def split(flags: Sequence[str]) -> tuple[list[str], list[str]]:
    """The gateway's flags, without the prefix that says so, and all others. A flag's value may be the next word."""
    gateway: list[str] = []
    others: list[str] = []
    of_gateway = False
    for word in flags:
        if word.startswith("-"):
            of_gateway = word.startswith(GATEWAY_PREFIX)
        (gateway if of_gateway else others).append(word.replace(GATEWAY_PREFIX, "--", 1) if of_gateway else word)
    return gateway, others


def _flags(args: argparse.Namespace, **names: str) -> list[str]:
    """Our flags that were given, as the programs call them."""
    values = {name: getattr(args, given) for given, name in names.items()}
    return [f"--{name}={value}" for name, value in values.items() if value is not None]


def _require(program: str) -> None:
    missing = [name for name in NEEDED[program] if importlib.util.find_spec(name) is None]
    if missing:
        hint = install_hint(EXTRAS[program])
        raise ValueError(f"the {program} is not installed here ({', '.join(missing)} missing); {hint}")


def _command(program: str, *flags: str) -> list[str]:
    return [sys.executable, "-m", PROGRAMS[program], *flags]


def _settle(flags: Sequence[str]) -> tuple[list[str], str]:
    """The server's flags and its address: the server itself says what its settings come to.

    Unless they say whom it believes about callers' addresses, it believes this machine, on which the gateway is.
    """
    yaml = importlib.import_module("yaml")  # of the server's extra
    command = _command("server", *flags, "--print-config")
    asked = subprocess.run(command, stdout=subprocess.PIPE, check=False)  # noqa: S603  # our own program
    if asked.returncode:
        raise SystemExit(asked.returncode)
    settings = yaml.safe_load(asked.stdout)
    host, port = settings["host"], settings["port"]
    settled = list(flags)
    if port == 0:  # the gateway must know it before the server has chosen one
        port = _free_port(host)
        settled.append(f"--port={port}")
    if not settings["trusted_proxies"]:
        own = {"127.0.0.1", "::1", *([] if host in ALL_ADDRESSES else [forwarded.address(host)])} - {""}
        settled += [f"--trusted-proxies={address}" for address in sorted(own)]
    return settled, f"{ALL_ADDRESSES.get(host, f'[{host}]' if ':' in host else host)}:{port}"


def _free_port(host: str) -> int:
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])


async def _supervise(commands: dict[str, list[str]]) -> int:
    children: dict[str, asyncio.subprocess.Process] = {}
    signals = 0

    def stop() -> None:
        nonlocal signals
        signals += 1
        _send(children.values(), signal.SIGTERM if signals == 1 else signal.SIGKILL)

    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop)
    try:
        for name, command in commands.items():
            # Each gets a process group of its own: Ctrl-C reaches it through us, once.
            children[name] = await asyncio.create_subprocess_exec(*command, process_group=0, preexec_fn=_ends_with_us())
        ends = [asyncio.create_task(child.wait(), name=name) for name, child in children.items()]
        if signals:
            _send(children.values(), signal.SIGTERM)
        finished, running = await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        if not signals:
            for task in finished:
                console.write_error(f"the {task.get_name()} has ended with exit status {task.result()}")
            _send(children.values(), signal.SIGTERM)
            await asyncio.gather(*running)
            return 1
        return max(map(abs, await asyncio.gather(*ends)))
    finally:
        _send(children.values(), signal.SIGKILL)


def _ends_with_us() -> Callable[[], object] | None:
    """What a child does first, to get SIGTERM when we end without a word, as by SIGKILL. Linux alone has it."""
    if sys.platform != "linux":
        return None
    libc, ours = ctypes.CDLL(None), os.getpid()  # here: little may be done between fork and exec

    def arm() -> None:
        libc.prctl(PR_SET_PDEATHSIG, int(signal.SIGTERM))
        if os.getppid() != ours:  # We ended before the child asked to be told.
            os._exit(1)

    return arm


def _send(children: Any, number: signal.Signals) -> None:
    for child in children:
        if child.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                child.send_signal(number)
