"""The models that the operator allowed: settings joined with what their families can do."""

import json
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import structlog
from cutout_common.config import ConfigError
from cutout_common.distribution import install_hint

from cutout_server.errors import FailedPreconditionError, InvalidRequestError, NotFoundError
from cutout_server.lacking import no_model
from cutout_server.models.family import Family
from cutout_server.models.protocols import Model
from cutout_server.models.registry import FAMILIES
from cutout_server.models.runtime import EXACT, Engine, Precision, Runtime, check, choose
from cutout_server.settings import ModelSettings, Settings
from cutout_server.types import ModelFiles, Task
from cutout_server.weights import Wanted, Weights, parse
from cutout_server.zoo import KNOWN, KnownModel, Source, WebFile

log = structlog.get_logger()


@dataclass(frozen=True)
class Loaded:
    """A model on a device, and what runs its encoder there."""

    model: Model
    runtime: Runtime


@dataclass(frozen=True)
class ModelSpec:
    """A model that requests may name.

    Attributes:
        settings: As the operator wrote it.
        family: What it is built on.
        devices: Devices that may hold it.
        default_for: Tasks for which it is taken when a request names no model.
        wanted: What it is made of, wherever that lies.
        weights: Where it lies; None for a model that is made of nothing.
        known: What Cutout itself knows of it.
        engine: What runs its encoder, if its family has a choice.
        precision: What its encoder computes in, likewise.
        exports: Folder of what engines make of checkpoints.
    """

    settings: ModelSettings
    family: Family
    devices: tuple[str, ...]
    default_for: frozenset[Task]
    wanted: Wanted | None = None
    weights: Weights | None = None
    known: KnownModel | None = None
    engine: Engine = Engine.EAGER
    precision: Precision = Precision.FP32
    exports: Path | None = None

    @property
    def name(self) -> str:
        """The name that requests use."""
        return self.settings.name

    @property
    def description(self) -> str:
        """For people."""
        return self.settings.description or (self.known.description if self.known else "")

    def files(self) -> ModelFiles:
        """What it is made of, on this machine.

        Raises:
            FailedPreconditionError: It was not downloaded yet.
        """
        with self._packages():
            return self.weights.files(self.wanted) if self.weights and self.wanted else ModelFiles()

    def fetch(self) -> None:
        """Downloads what is not on this machine; takes minutes, so never on the event loop.

        Raises:
            FailedPreconditionError: It cannot be had.
        """
        with self._packages():
            if self.weights and self.wanted:
                self.weights.fetch(self.wanted)

    def load(self, device: str, *, may_export: bool = False) -> Loaded:
        """Loads it; takes seconds, so never on the event loop.

        Args:
            device: "cpu", "cuda:0" ...
            may_export: Whether its engine may make what it needs of the checkpoint, which takes up to minutes. Without,
                an engine that was not asked for by name gives way to the plain one.

        Raises:
            FailedPreconditionError: Its files cannot be used, or its packages are not installed.
        """
        with self._packages():
            files, runtime = self.files(), self._runtime(device, may_export=may_export)
            try:
                return Loaded(self.family.load(files, device, runtime), runtime)
            except FailedPreconditionError as error:
                if error.reason != "EXPORT_MISSING" or self.engine is not Engine.AUTO:
                    raise
                log.warning("engine not ready", model=self.name, engine=runtime.engine.value, why=error.message)
            runtime = self._runtime(device, engine=Engine.EAGER)
            return Loaded(self.family.load(files, device, runtime), runtime)

    def _runtime(self, device: str, *, engine: Engine | None = None, may_export: bool = False) -> Runtime:
        family = self.family
        if not family.engines:
            return EXACT
        engine, precision = choose(
            engine or self.engine, self.precision, family.engines, device, bf16_needs_amx=family.bf16_needs_amx
        )
        # A bf16 decoder moves as many pixels as a bf16 encoder does: more than `auto` may.
        return Runtime(engine, precision, self.exports, may_export, self.precision is Precision.BF16)

    @contextmanager
    def _packages(self) -> Iterator[None]:
        """Says which extra is missing when a package is."""
        try:
            yield
        except ImportError as error:
            if (error.name or "").startswith("cutout"):
                raise
            raise FailedPreconditionError(
                f"model {self.name!r} needs the package {error.name!r}: {install_hint(self.family.extra)}",
                reason="PACKAGE_MISSING",
            ) from error


class Catalogue:
    """Models by name, and by task when a request names none."""

    def __init__(self, specs: Mapping[str, ModelSpec]) -> None:
        self.specs = dict(sorted(specs.items()))

    @classmethod
    def of(cls, settings: Settings) -> "Catalogue":
        """Joins the settings with the families.

        Raises:
            ConfigError: A setting names an unknown family, lacks a checkpoint, or names a default that cannot serve.
        """
        weights = Weights(
            settings.weights_dir,
            offline=settings.offline,
            token=settings.hub_token.get_secret_value(),
            endpoint=settings.hub_endpoint,
            progress=sys.stderr.isatty(),
        )
        families = {model.name: _as_found(_family(model), weights, wanted(model)) for model in settings.models}
        names = {
            Task.SEGMENT: ("default_segmenter", settings.default_segmenter),
            Task.DETECT: ("default_detector", settings.default_detector),
            Task.SEGMENT_TEXT: ("default_text_segmenter", settings.default_text_segmenter),
            Task.CLASSIFY: ("default_classifier", settings.default_classifier),
            Task.GENERATE: ("default_generator", settings.default_generator),
        }
        defaults = {task: _default(families, name, task, field) for task, (field, name) in names.items()}
        segmenter = defaults[Task.SEGMENT]
        for task in (Task.EVERYTHING, Task.TRACK):
            goes_on = segmenter is not None and task in families[segmenter].tasks
            defaults[task] = segmenter if goes_on else _default(families, "", task, "")
        return cls(
            {
                model.name: ModelSpec(
                    settings=model,
                    family=(family := families[model.name]),
                    devices=model.devices or settings.devices,
                    default_for=frozenset(t for t, n in defaults.items() if n == model.name and t in family.tasks),
                    wanted=wanted(model),
                    weights=weights,
                    known=KNOWN.get(model.name),
                    **_engine(settings, model, family),
                )
                for model in settings.models
            }
        )

    def get(self, name: str) -> ModelSpec:
        """The model of that name.

        Raises:
            NotFoundError: There is none.
        """
        spec = self.specs.get(name)
        if spec is None:
            raise NotFoundError(
                f"no model is called {name!r}; expected one of {list(self.specs)}", reason="MODEL_NOT_FOUND"
            )
        return spec

    def able(self, task: Task) -> list[str]:
        """Names of the models that can do the task."""
        return [spec.name for spec in self.specs.values() if task in spec.family.tasks]

    def find(self, name: str, task: Task) -> ModelSpec | None:
        """The model of that name if it can do the task; without a name, the default for the task if there is one."""
        for spec in self.specs.values():
            if task in spec.family.tasks and (spec.name == name if name else task in spec.default_for):
                return spec
        return None

    def choose(self, name: str, task: Task, field: str) -> ModelSpec:
        """The model that a request named in `field`, or the default for the task.

        Raises:
            FailedPreconditionError: No model can do it.
            InvalidRequestError: The name is unknown, or that model cannot do it.
        """
        able = self.able(task)
        if not able:
            raise no_model(task, field)
        if not name:
            return next(spec for spec in self.specs.values() if task in spec.default_for)
        if name not in able:
            raise InvalidRequestError.of(field, f"expected one of {able}, got {name!r}", reason="MODEL_NOT_FOUND")
        return self.specs[name]


def wanted(model: ModelSettings) -> Wanted:
    """What a model is made of: as the settings say, and for the rest as Cutout knows it."""
    known = KNOWN.get(model.name) if not model.family else None
    checkpoint: Source | Path | None = parse(model.checkpoint) if model.checkpoint else None
    companions: dict[str, Source | Path] = {name: parse(source) for name, source in model.companions.items()}
    if known is None:
        return Wanted(model.name, checkpoint, model.config, companions)
    page = (
        f"https://huggingface.co/{known.source.repo}" if known.gated and not isinstance(known.source, WebFile) else ""
    )
    return Wanted(
        model.name,
        checkpoint or known.source,
        model.config or (None if checkpoint else known.config),
        {**known.companions, **companions},
        page,
    )


def _family(model: ModelSettings) -> Family:
    known = KNOWN.get(model.name)
    name = model.family or (known.family if known else "")
    if not name:
        close = get_close_matches(model.name, KNOWN, n=3, cutoff=0.4)
        hint = f"; did you mean {' or '.join(close)}?" if close else ""
        raise ConfigError(
            f"models: {model.name}: no known model has that name{hint} "
            "(`cutout models list --known` shows them; any other needs a family and a checkpoint)"
        )
    family = FAMILIES.get(name)
    if family is None:
        raise ConfigError(f"models: {model.name}: family {name!r} is unknown; expected {sorted(FAMILIES)}")
    made_of = wanted(model)
    if family.needs_checkpoint and made_of.checkpoint is None:
        raise ConfigError(f"models: {model.name}: family {name!r} needs a checkpoint")
    if set(made_of.companions) - set(family.optional_companions) != set(family.companions):
        raise ConfigError(
            f"models: {model.name}: family {name!r} needs companions {sorted(family.companions)}, "
            f"got {sorted(made_of.companions)}"
        )
    return family


def _as_found(family: Family, weights: Weights, made_of: Wanted) -> Family:
    """The family, without tracking where the folder is for pictures alone; what is to be downloaded may be any."""
    folder = weights.files(made_of).checkpoint if family.stills and weights.has(made_of) else None
    if folder is None:
        return family
    try:
        is_for_stills = json.loads((folder / "config.json").read_text("utf-8")).get("model_type") == family.stills
    except (OSError, ValueError, AttributeError):  # Loading says what is wrong with it.
        return family
    return replace(family, tasks=family.tasks - {Task.TRACK}) if is_for_stills else family


def _engine(settings: Settings, model: ModelSettings, family: Family) -> dict[str, Any]:
    """The model's own engine and precision, or the server's as far as the family has them."""
    if not family.engines:
        if model.engine or model.precision:
            raise ConfigError(f"models: {model.name}: family {family.name!r} has no choice of engine and precision")
        return {}
    try:
        check(Engine(model.engine or "auto"), Precision(model.precision or "auto"), family.engines)
    except ValueError as error:
        raise ConfigError(f"models: {model.name}: {error}") from error
    engine, precision = Engine(model.engine or settings.engine), Precision(model.precision or settings.precision)
    try:
        check(engine, precision, family.engines)
    except ValueError:
        # What was said for all models is not of this one.
        engine, precision = Engine(model.engine or "auto"), Precision(model.precision or "auto")
    return {"engine": engine, "precision": precision, "exports": settings.weights_dir.expanduser() / "exports"}


def _default(families: Mapping[str, Family], name: str, task: Task, field: str) -> str | None:
    able = [model for model, family in families.items() if task in family.tasks]
    if name and name not in able:
        raise ConfigError(f"{field}: {name!r} cannot {task.value}; expected one of {able}")
    return name or (able[0] if able else None)
