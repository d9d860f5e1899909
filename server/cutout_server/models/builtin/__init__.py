"""The built-in model: classical vision from OpenCV, no weights and no download."""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cutout_server.models.builtin.model import Builtin


def load(checkpoint: Path | None, config: str | None, device: str) -> "Builtin":
    """Makes the built-in model.

    Args:
        checkpoint: Must be None: there are no weights.
        config: Must be None: there is nothing to set.
        device: Ignored, since all of it runs on the CPU.

    Raises:
        FailedPreconditionError: A checkpoint or a configuration was given, or OpenCV is missing or lacks the cascades.
    """
    del device
    # OpenCV is imported only when the model is wanted; the package itself must stay light for `words`.
    from cutout_server.models.builtin.model import Builtin  # noqa: PLC0415

    return Builtin.load(checkpoint, config)
