"""What callers are told when the server was set up without a model for what they ask: the fault is not theirs."""

from collections.abc import Callable

from cutout_server.errors import FailedPreconditionError
from cutout_server.models.family import Family
from cutout_server.models.registry import FAMILIES
from cutout_server.types import Task
from cutout_server.zoo import KNOWN, PROFILES

REASON = "NO_MODEL_FOR_TASK"


def no_model(task: Task, field: str) -> FailedPreconditionError:
    """No model of the server can do the task; `field` is where a request would name one."""
    return _lacks(field, f"can {task.value}", lambda family: task in family.tasks)


def no_exemplars() -> FailedPreconditionError:
    """No model of the server looks for what is like an example."""
    return _lacks("exemplars", "takes any", lambda family: family.exemplars)


def no_rewriter() -> FailedPreconditionError:
    """The operator named no language model."""
    return FailedPreconditionError(
        "rewrite: this server has no language model that rewrites phrases; "
        "its settings rewrite_url and rewrite_model bring one",
        reason=REASON,
    )


def _lacks(field: str, what: str, able: Callable[[Family], bool]) -> FailedPreconditionError:
    families = {name: FAMILIES[known.family] for name, known in KNOWN.items()}
    profiles = (profile for profile, names in PROFILES.items() if any(able(families[name]) for name in names))
    example = next(name for name, family in families.items() if able(family))
    profile = next(profiles, None)
    flags = f"--profile {profile}" if profile else f"--profile builtin --models {example}"
    return FailedPreconditionError(
        f"{field}: this server has no model that {what}; "
        f"`cutout serve {flags}` (extra {families[example].extra!r}) brings one",
        reason=REASON,
    )
