"""Refusals of names and words that there are not: they list those that there are, and what was probably meant."""

import inspect
import typing
from collections.abc import Callable, Collection, Iterable
from difflib import get_close_matches
from functools import wraps
from typing import Any, TypeVar

Class = TypeVar("Class", bound=type)

# What other tools call our arguments.
MEANT = {
    "model": ("generator", "segmenter", "detector", "classifier"),
    "text": ("phrases", "concepts", "prompts"),
    "texts": ("phrases", "concepts"),
    "labels": ("phrases", "concepts"),
    "classes": ("phrases", "concepts"),
    "points": ("prompts",),
    "box": ("boxes",),
    "confidence": ("box_threshold", "predicted_iou_threshold"),
    "format": ("mask_formats", "image_format"),
}


def nearest(name: str, known: Iterable[str]) -> str:
    """Such as " (did you mean segmenter?)"; empty when nothing comes near."""
    known = list(known)
    meant = [each for each in MEANT.get(name, ()) if each in known] or get_close_matches(name, known, 1)
    return f" (did you mean {' or '.join(meant)}?)" if meant else ""


def choose(name: str, value: Any, known: Collection[str]) -> None:
    """Refuses a word that an argument does not take.

    Raises:
        ValueError: With the words that it takes.
    """
    if value not in list(known):  # Which compares what cannot be hashed, too.
        hint = nearest(value, known) if isinstance(value, str) else ""
        raise ValueError(f"{name} must be one of {', '.join(known)}, not {value!r}{hint}")


def lists_arguments(cls: Class) -> Class:
    """Has every public method, and the class itself, refuse unknown arguments with a list of those that there are."""
    for name, member in list(vars(cls).items()):
        if inspect.isfunction(member) and (name == "__init__" or not name.startswith("_")):
            setattr(cls, name, _checked(member, cls.__name__ if name == "__init__" else name))
    return cls


def _checked(function: Callable[..., Any], called: str) -> Callable[..., Any]:
    known = _arguments(function)

    def check(given: Iterable[str]) -> None:
        if unknown := sorted(set(given) - set(known)):
            hints = "".join(nearest(name, known) for name in unknown)
            raise TypeError(f"unknown option {', '.join(unknown)}{hints}; {called}() takes {', '.join(known)}")

    if inspect.iscoroutinefunction(function):

        @wraps(function)
        async def checked_async(*args: Any, **named: Any) -> Any:
            check(named)
            return await function(*args, **named)

        return checked_async

    @wraps(function)
    def checked(*args: Any, **named: Any) -> Any:
        check(named)
        return function(*args, **named)

    return checked


def _arguments(function: Callable[..., Any]) -> list[str]:
    """The names of a method's arguments, with those of the TypedDict that its `**options` unpack."""
    names: list[str] = []
    for parameter in list(inspect.signature(function).parameters.values())[1:]:
        if parameter.kind is parameter.VAR_KEYWORD:
            (options,) = typing.get_args(parameter.annotation)
            names += options.__annotations__
        else:
            names.append(parameter.name)
    return names
