"""The models that the operator allowed: settings joined with what their families can do."""

from collections.abc import Mapping
from dataclasses import dataclass

from cutout_common.config import ConfigError

from cutout_server.errors import FailedPreconditionError, InvalidRequestError, NotFoundError
from cutout_server.models.base import Family, Model, Task
from cutout_server.models.registry import FAMILIES
from cutout_server.settings import ModelSettings, Settings


@dataclass(frozen=True)
class ModelSpec:
    """A model that requests may name.

    Attributes:
        settings: As the operator wrote it.
        family: What it is built on.
        devices: Devices that may hold it.
        default_for: Tasks for which it is taken when a request names no model.
    """

    settings: ModelSettings
    family: Family
    devices: tuple[str, ...]
    default_for: frozenset[Task]

    @property
    def name(self) -> str:
        """The name that requests use."""
        return self.settings.name

    def load(self, device: str) -> Model:
        """Loads it; takes seconds, so never on the event loop.

        Raises:
            FailedPreconditionError: Its files cannot be used, or its packages are not installed.
        """
        try:
            return self.family.load(self.settings.files(), device)
        except ImportError as error:
            if (error.name or "").startswith("cutout"):
                raise
            raise FailedPreconditionError(
                f"model {self.name!r} needs the package {error.name!r}: pip install 'cutout[{self.family.extra}]'",
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
        for model in settings.models:
            family = FAMILIES.get(model.family)
            if family is None:
                raise ConfigError(
                    f"models: {model.name}: family {model.family!r} is unknown; expected {sorted(FAMILIES)}"
                )
            if family.needs_checkpoint and model.checkpoint is None:
                raise ConfigError(f"models: {model.name}: family {model.family!r} needs a checkpoint")
            if set(model.companions) != set(family.companions):
                raise ConfigError(
                    f"models: {model.name}: family {model.family!r} needs companions {sorted(family.companions)}, "
                    f"got {sorted(model.companions)}"
                )
        names = {
            Task.SEGMENT: ("default_segmenter", settings.default_segmenter),
            Task.DETECT: ("default_detector", settings.default_detector),
            Task.SEGMENT_TEXT: ("default_text_segmenter", settings.default_text_segmenter),
            Task.CLASSIFY: ("default_classifier", settings.default_classifier),
            Task.GENERATE: ("default_generator", settings.default_generator),
        }
        defaults = {task: _default(settings, name, task, field) for task, (field, name) in names.items()}
        defaults[Task.EVERYTHING] = defaults[Task.SEGMENT]
        return cls(
            {
                model.name: ModelSpec(
                    settings=model,
                    family=(family := FAMILIES[model.family]),
                    devices=model.devices or settings.devices,
                    default_for=frozenset(t for t, n in defaults.items() if n == model.name and t in family.tasks),
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

    def find(self, name: str, task: Task) -> ModelSpec | None:
        """The model of that name if it can do the task; without a name, the default for the task if there is one."""
        for spec in self.specs.values():
            if task in spec.family.tasks and (spec.name == name if name else task in spec.default_for):
                return spec
        return None

    def choose(self, name: str, task: Task, field: str) -> ModelSpec:
        """The model that a request named in `field`, or the default for the task.

        Raises:
            InvalidRequestError: The name is unknown, the model cannot do it, or none is configured that can.
        """
        able = [spec.name for spec in self.specs.values() if task in spec.family.tasks]
        if not name:
            for spec in self.specs.values():
                if task in spec.default_for:
                    return spec
            raise InvalidRequestError.of(
                field, f"no model that can {task.value} is configured", reason="MODEL_NOT_FOUND"
            )
        if name not in able:
            raise InvalidRequestError.of(field, f"expected one of {able}, got {name!r}", reason="MODEL_NOT_FOUND")
        return self.specs[name]


def _default(settings: Settings, name: str, task: Task, field: str) -> str | None:
    able = [model.name for model in settings.models if task in FAMILIES[model.family].tasks]
    if name and name not in able:
        raise ConfigError(f"{field}: {name!r} cannot {task.value}; expected one of {able}")
    return name or (able[0] if able else None)
