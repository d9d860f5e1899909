"""The REST gateway, made from the contracts."""

from cutout_common import __version__

__all__ = ["__version__"]
