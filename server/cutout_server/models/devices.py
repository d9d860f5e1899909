"""Whether the devices that the settings name are there."""

from collections.abc import Iterable

from cutout_common.config import ConfigError
from cutout_common.distribution import install_hint

from cutout_server.errors import FailedPreconditionError


def check_devices(devices: Iterable[str]) -> None:
    """Makes sure that a server does not start for devices that it does not have.

    Raises:
        ConfigError: One is not there; the text says which are.
    """
    if set(devices) == {"cpu"}:
        return  # without PyTorch, which takes seconds to import
    try:
        from cutout_server.models.checkpoint import check_device  # noqa: PLC0415 - needs PyTorch
    except ImportError:
        raise ConfigError(f"devices: all but cpu need PyTorch: {install_hint('server')}") from None
    for device in devices:
        try:
            check_device(device)
        except FailedPreconditionError as error:
            raise ConfigError(f"devices: {error.message}") from error
