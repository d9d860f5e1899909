"""`cutout serve --sagemaker`: what SageMaker tells a container, as settings of ours.

https://docs.aws.amazon.com/sagemaker/latest/dg/your-algorithms-inference-code.html; the variables are those of its
inference toolkit. All of them are defaults: flags and variables of our own come before them.
"""

import bisect
from collections.abc import Mapping, Sequence
from pathlib import Path

MODEL_DIR = "/opt/ml/model"
COMMAND = "serve"
"""The word that SageMaker puts behind a container's entry point."""

_LEVELS = ("debug", "info", "warning", "error")
_NUMBERS = (10, 20, 30)  # Of Python's logging: each level's greatest but the last one's.


def environment(given: Mapping[str, str]) -> dict[str, str]:
    """The variables of ours that `given` stands for, which are not among them.

    Raises:
        ValueError: SAGEMAKER_CONTAINER_LOG_LEVEL is no number.
    """
    ours = {
        "CUTOUT_GATEWAY_HOST": "0.0.0.0",  # noqa: S104 - SageMaker alone reaches the container
        "CUTOUT_GATEWAY_PORT": given.get("SAGEMAKER_BIND_TO_PORT", "8080"),
        "CUTOUT_GATEWAY_COMPAT": "sagemaker",
    }
    if seconds := given.get("SAGEMAKER_MODEL_SERVER_TIMEOUT"):
        ours["CUTOUT_GATEWAY_DEFAULT_TIMEOUT_S"] = seconds
    if level := given.get("SAGEMAKER_CONTAINER_LOG_LEVEL"):
        if not level.isdecimal():
            raise ValueError(f"SAGEMAKER_CONTAINER_LOG_LEVEL: expected a number such as 20, got {level!r}")
        name = _LEVELS[bisect.bisect_left(_NUMBERS, int(level))]
        ours |= {"CUTOUT_LOG_LEVEL": name, "CUTOUT_GATEWAY_LOG_LEVEL": name}
    model = Path(given.get("SM_MODEL_DIR", MODEL_DIR))
    if model.is_dir():
        ours["CUTOUT_WEIGHTS_DIR"] = str(model)
    if (settings := model / "cutout.yaml").is_file():
        ours["CUTOUT_CONFIG"] = str(settings)
    return {name: value for name, value in ours.items() if name not in given}


def flags(words: Sequence[str]) -> list[str]:
    """The flags among the words behind the entry point."""
    return [word for word in words if word != COMMAND]
