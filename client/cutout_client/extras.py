"""Packages that are not installed with the client."""

from importlib import import_module
from typing import Any


def needed(package: str, purpose: str) -> Any:
    """A package that only one method needs.

    Raises:
        ModuleNotFoundError: It is not installed; the text says how it would be.
    """
    try:
        return import_module(package)
    except ModuleNotFoundError as error:
        if error.name != package:
            raise
        raise ModuleNotFoundError(f"{purpose} needs {package}: pip install {package}", name=package) from None
