"""Settings with one stated precedence: flag > environment > YAML file > default."""

import json
import os
import re
import sys
from pathlib import Path
from typing import Any, ClassVar, Self

import yaml
from pydantic import ValidationError
from pydantic.fields import FieldInfo
from pydantic_settings import (
    BaseSettings,
    CliSettingsSource,
    EnvSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
    YamlConfigSettingsSource,
)

from cutout_common.arguments import Parser
from cutout_common.distribution import PrintVersion


class ConfigError(Exception):
    """The settings cannot be used; the text says which and why."""


class _Environment(EnvSettingsSource):
    """Environment variables; a list is written with commas, or as JSON."""

    def decode_complex_value(self, field_name: str, field: FieldInfo, value: Any) -> Any:  # noqa: ARG002 - pydantic's own signature
        """Reads a variable that is not one plain value."""
        text = str(value).strip()
        if not text.startswith(("[", "{")):
            return [item.strip() for item in text.split(",") if item.strip()]
        try:
            return json.loads(text)
        except ValueError as error:
            name = f"{self.env_prefix}{field_name}".upper()
            raise ConfigError(f"{name}: expected values with commas between them, or JSON ({error})") from error


class Config(BaseSettings):
    """Base of a program's settings. Unknown flags, variables and keys are refused.

    A subclass gives `env_prefix` and `cli_prog_name` in its `model_config`; each field's description is its help text.
    """

    # Prefixes inside this program's own that belong to others of ours.
    FOREIGN_PREFIXES: ClassVar[tuple[str, ...]] = ()

    model_config = SettingsConfigDict(extra="forbid", frozen=True, cli_kebab_case=True, cli_hide_none_type=True)

    @classmethod
    def load(cls, args: list[str]) -> Self:
        """Reads flags, environment, and the YAML file that `--config` or `<PREFIX>CONFIG` names.

        Raises:
            ConfigError: A key is unknown, or a value cannot be used.
            SystemExit: `--help` or `--print-config` was asked for, or a flag is unknown.
        """
        prefix = cls.model_config.get("env_prefix", "")
        before = Parser(add_help=False)
        before.add_argument("--version", action=PrintVersion)
        before.add_argument("--print-config", action="store_true", help="print the settings in force as YAML, and exit")
        before.add_argument("--config", default=os.environ.get(f"{prefix}CONFIG"), help="YAML file with any of these")
        known, flags = before.parse_known_args(args)
        cls._refuse_unknown_variables(prefix)
        prog = cls.model_config.get("cli_prog_name")
        parser = Parser(prog=prog, parents=[before])
        try:
            sources: list[PydanticBaseSettingsSource] = [
                CliSettingsSource(cls, root_parser=parser, cli_parse_args=flags),
                _Environment(cls),
            ]
            if known.config:
                sources.append(YamlConfigSettingsSource(cls, Path(known.config)))
                if not Path(known.config).is_file():
                    raise ConfigError(f"the settings file {known.config} does not exist")
            settings = cls(_build_sources=(tuple(sources), {}))
        except ValidationError as error:
            raise ConfigError(_explain(error)) from error
        except (SettingsError, yaml.YAMLError, TypeError, ValueError) as error:
            raise ConfigError(str(error)) from error
        if known.print_config:
            sys.stdout.write(settings.to_yaml())
            raise SystemExit(0)
        return settings

    def to_yaml(self) -> str:
        """The settings in force, in the form of the file that `--config` reads."""
        data: dict[str, Any] = self.model_dump(mode="json")
        return yaml.safe_dump(data, sort_keys=False, allow_unicode=True)

    @classmethod
    def _refuse_unknown_variables(cls, prefix: str) -> None:
        known = {f"{prefix}{name}".upper() for name in [*cls.model_fields, "config"]}
        ours = (name for name in os.environ if name.startswith(prefix) and not name.startswith(cls.FOREIGN_PREFIXES))
        unknown = sorted(set(ours) - known)
        if unknown:
            expected = ", ".join(sorted(known))
            raise ConfigError(f"unknown environment variable {', '.join(unknown)}; expected one of {expected}")


def _explain(error: ValidationError) -> str:
    """One line that names every wrong setting; the value too, unless it is or holds a secret."""
    lines = []
    for each in error.errors():
        name = ".".join(map(str, each["loc"]))
        told = isinstance(each["input"], str | int | float) and not re.search("key|token", name)
        got = f" (got {each['input']!r})" if name and told else ""
        lines.append(f"{name or 'settings'}: {each['msg']}{got}")
    return "; ".join(lines)
