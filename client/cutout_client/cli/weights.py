"""`cutout models pull`, `export`, `compile` and `--known`: weights on this machine, without a server."""

import argparse
import importlib
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from typing import Any

from cutout_common.distribution import install_hint

from cutout_client.cli import console


def add_to(parser: argparse.ArgumentParser) -> None:
    """Adds the flags; each has the server's own setting as its default."""
    parser.add_argument(
        "--weights-dir", metavar="DIR", help="where weights are kept (default: the server's weights_dir)"
    )
    parser.add_argument("--config", metavar="FILE", help="the server's settings file, for its models and weights_dir")
    parser.add_argument("--engine", choices=("auto", "openvino", "onnx"), help="to export for (default: the server's)")
    parser.add_argument(
        "--precision",
        choices=("auto", "fp32", "bf16", "fp16", "int8"),
        help="to export or compile in (default: the server's)",
    )


def pull(args: argparse.Namespace) -> int:
    """Downloads a model, or each model of a profile; what is there already is left as it is."""
    server = _server()
    done = []
    for spec in _specs(server, args):
        try:
            spec.fetch()
        except server.errors.CutoutError as error:
            console.write_error(error.message)
            return 1
        files = spec.files()
        if files.checkpoint is not None:
            done.append({"name": spec.name, "checkpoint": str(files.checkpoint)})
    if args.json:
        console.write_json(done)
    else:
        for each in done:
            console.stdout().print(f"{each['name']}: {each['checkpoint']}", soft_wrap=True)
    return 0


def export(args: argparse.Namespace) -> int:
    """Makes what an engine needs of a checkpoint; in a profile, for each model that leaves a choice of engines."""
    server = _server()
    engine = "compile" if args.action == "compile" else args.engine
    asked = {"engine": engine and server.runtime.Engine(engine)}
    asked["precision"] = args.precision and server.runtime.Precision(args.precision)
    asked = {name: value for name, value in asked.items() if value}
    done = []
    for spec in _specs(server, args):
        if not spec.family.engines:
            if spec.name != args.name:
                continue  # One of a profile.
            console.write_error(f"model {spec.name!r} leaves no choice of engines: there is nothing to export")
            return 1
        started_s = time.monotonic()
        try:
            spec.fetch()
            loaded = replace(spec, **asked).load(args.device or "cpu", may_export=True)
        except (server.errors.CutoutError, ValueError) as error:
            console.write_error(getattr(error, "message", str(error)))
            return 1
        chosen = f"{loaded.runtime.engine.value} {loaded.runtime.precision.value}"
        done.append({"name": spec.name, "engine": chosen, "seconds": round(time.monotonic() - started_s, 1)})
        del loaded  # Before the next one is loaded.
    if args.json:
        console.write_json(done)
    else:
        for each in done:
            console.stdout().print(f"{each['name']}: {each['engine']}, {each['seconds']} s")
    return 0


def show_known(args: argparse.Namespace) -> int:
    """Prints the models that Cutout knows, or one of them."""
    server = _server()
    known = server.zoo.KNOWN
    if args.name is not None and args.name not in known:
        console.write_error(f"no known model is called {args.name!r}; `cutout models list --known` shows them")
        return 1
    names = [args.name] if args.name else list(known)
    here = {name: _is_here(server, args, name) for name in names}
    if args.json:
        console.write_json([{**asdict(known[name]), "on_disk": here[name]} for name in names])
    elif args.name:
        _print_one(known[args.name], here[args.name])
    else:
        _print_list([known[name] for name in names], here)
    return 0


def _print_list(models: list[Any], here: dict[str, bool]) -> None:
    table = console.table("MODEL", "DOWNLOAD", "LICENCE", "ON DISK", right=("DOWNLOAD",))
    for model in models:
        licence = f"{model.licence} (gated)" if model.gated else model.licence
        table.add_row(model.name, _size(model), licence, "yes" if here[model.name] else "-")
    console.stdout().print(table)


def _print_one(model: Any, here: bool) -> None:
    table = console.table("", "")
    table.show_header = False
    table.add_row("name", model.name)
    table.add_row("family", model.family)
    table.add_row("description", model.description)
    table.add_row("licence", f"{model.licence}, gated: accept it on the model's page" if model.gated else model.licence)
    for name, source in {"checkpoint": model.source, **model.companions}.items():
        where = getattr(source, "url", None) or "/".join(
            filter(None, (f"hub:{source.repo}", getattr(source, "file", "")))
        )
        table.add_row(name.replace("_", " "), where)
    table.add_row("download", _size(model))
    table.add_row("on disk", "yes" if here else f"no; cutout models pull {model.name}")
    console.stdout().print(table)


def _size(model: Any) -> str:
    return console.in_bytes(model.size_bytes) if model.size_bytes else "-"


def _is_here(server: Any, args: argparse.Namespace, name: str) -> bool:
    spec = _catalogue(server, args, name).get(name)
    return bool(spec.weights.has(spec.wanted))


def _specs(server: Any, args: argparse.Namespace) -> list[Any]:
    """The models that were named, one or those of a profile."""
    server.logs.configure("console", "warning")
    catalogue = _catalogue(server, args, args.name)
    return [catalogue.get(name) for name in server.zoo.PROFILES.get(args.name) or (args.name,)]


def _catalogue(server: Any, args: argparse.Namespace, name: str) -> Any:
    """The models of the server's own settings, and one that they do not have."""
    try:
        return server.catalogue.Catalogue.of(_settings(server, args, name))
    except (server.config.ConfigError, ValueError) as error:
        raise SystemExit(f"cutout: error: {error}") from error


def _settings(server: Any, args: argparse.Namespace, name: str) -> Any:
    flags = [f"--config={args.config}"] if args.config else []
    if args.weights_dir:
        flags.append(f"--weights-dir={args.weights_dir}")
    if name in server.zoo.PROFILES:
        flags.append(f"--profile={name}")
    settings = server.settings.Settings.load(flags)
    if name in server.zoo.PROFILES or name in {model.name for model in settings.models}:
        return settings
    model = server.settings.ModelSettings(name=name)
    return settings.model_copy(update={"models": (*settings.models, model)})


def _server() -> argparse.Namespace:
    """The modules of the server that know about weights."""
    try:
        importlib.import_module("huggingface_hub")
        names = [f"cutout_server.{name}" for name in ("catalogue", "errors", "settings", "zoo", "models.runtime")]
        names += ["cutout_common.config", "cutout_common.logs"]
        return argparse.Namespace(**{name.split(".")[-1]: importlib.import_module(name) for name in names})
    except ImportError as error:
        hint = install_hint("server")
        raise SystemExit(f"cutout: error: this needs the package {error.name}: {hint}") from error


ACTIONS: dict[str, Callable[[argparse.Namespace], int]] = {"pull": pull, "export": export, "compile": export}
