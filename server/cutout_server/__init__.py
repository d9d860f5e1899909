"""The gRPC server."""

from cutout_common import __version__

__all__ = ["__version__"]
