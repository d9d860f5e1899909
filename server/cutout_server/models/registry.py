"""The model families, by the name that settings use. A family's module is imported when its first model is loaded."""

from pathlib import Path

from cutout_server.models.base import Family, Model, Task
from cutout_server.models.builtin.words import VOCABULARY


def _load_builtin(checkpoint: Path | None, config: str | None, device: str) -> Model:
    from cutout_server.models.builtin import load  # noqa: PLC0415

    return load(checkpoint, config, device)


def _load_sam2(checkpoint: Path | None, config: str | None, device: str) -> Model:
    from cutout_server.models.sam2 import load  # noqa: PLC0415

    return load(checkpoint, config, device)


FAMILIES: dict[str, Family] = {
    family.name: family
    for family in (
        Family(
            name="builtin",
            tasks=frozenset({Task.SEGMENT, Task.DETECT, Task.EVERYTHING}),
            load=_load_builtin,
            needs_checkpoint=False,
            proposes=True,
            max_batch=4,
            vocabulary=VOCABULARY,
            predicted_iou_threshold=0.5,
            stability_threshold=0.5,
        ),
        Family(name="sam2", tasks=frozenset({Task.SEGMENT, Task.EVERYTHING}), load=_load_sam2),
    )
}
