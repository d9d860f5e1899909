"""The built-in model: a small network of our own, whose weights are in the package; words by OpenCV's cascades."""

from typing import TYPE_CHECKING

from cutout_server.types import ModelFiles

if TYPE_CHECKING:
    from cutout_server.models.builtin.model import Builtin


def load(files: ModelFiles, device: str) -> "Builtin":
    """Makes the built-in model.

    Args:
        files: Must be empty: the weights are in the package, and there is nothing to set.
        device: Ignored, since all of it runs on the CPU.

    Raises:
        FailedPreconditionError: A file was given, or OpenCV is missing or lacks the cascades.
    """
    del device
    # OpenCV is imported only when the model is wanted; the package itself must stay light for `words`.
    from cutout_server.models.builtin.model import Builtin  # noqa: PLC0415

    return Builtin.load(files)
