"""The model families, by the name that settings use. A family's module is imported when its first model is loaded."""

from collections.abc import Callable
from importlib import import_module
from math import inf

from cutout_server.models.builtin.words import VOCABULARY
from cutout_server.models.family import Family
from cutout_server.models.protocols import Model
from cutout_server.models.runtime import EXACT, Engine, Runtime
from cutout_server.types import ModelFiles, Task

Load = Callable[[ModelFiles, str, Runtime], Model]


def _from(module: str) -> Load:
    """The `load(files, device)` of a module that is imported when it is called."""

    def load(files: ModelFiles, device: str, _runtime: Runtime = EXACT) -> Model:
        model: Model = import_module(f"cutout_server.models.{module}").load(files, device)
        return model

    return load


def _with_engines_from(module: str) -> Load:
    """The `load(files, device, runtime)` of a module that is imported when it is called."""

    def load(files: ModelFiles, device: str, runtime: Runtime = EXACT) -> Model:
        model: Model = import_module(f"cutout_server.models.{module}").load(files, device, runtime)
        return model

    return load


_SEGMENTER = frozenset({Task.SEGMENT, Task.EVERYTHING})
_DETECTOR = frozenset({Task.DETECT})
_ENGINES = frozenset({Engine.EAGER, Engine.COMPILE, Engine.OPENVINO, Engine.ONNX})

FAMILIES: dict[str, Family] = {
    family.name: family
    for family in (
        Family(
            name="builtin",
            tasks=frozenset({Task.SEGMENT, Task.DETECT, Task.EVERYTHING, Task.TRACK}),
            load=_from("builtin"),
            needs_checkpoint=False,
            proposes=True,
            max_batch=4,
            vocabulary=VOCABULARY,
            predicted_iou_threshold=0.32,
            stability_threshold=0.5,
        ),
        Family(
            name="sam",
            tasks=_SEGMENTER,
            load=_with_engines_from("sam"),
            engines=_ENGINES,
            predicted_iou_threshold=0.88,
            max_logit=inf,
        ),
        Family(name="sam2", tasks=_SEGMENTER | {Task.TRACK}, load=_with_engines_from("sam2"), engines=_ENGINES),
        Family(
            name="sam-hq",
            tasks=_SEGMENTER,
            load=_with_engines_from("sam_hq"),
            engines=_ENGINES,
            predicted_iou_threshold=0.88,
            max_logit=inf,
        ),
        Family(name="edgetam", tasks=_SEGMENTER | {Task.TRACK}, load=_from("edgetam"), stills="edgetam", max_logit=inf),
        Family(
            name="sam3",
            tasks=_SEGMENTER | {Task.SEGMENT_TEXT, Task.TRACK},
            load=_from("sam3"),
            exemplars=True,
            max_batch=4,
            box_threshold=0.5,
            max_logit=inf,
        ),
        Family(
            name="grounding-dino",
            tasks=_DETECTOR,
            load=_with_engines_from("grounding_dino"),
            engines=frozenset({Engine.EAGER}),
            bf16_needs_amx=True,
            optional_companions=("text_encoder",),
            max_batch=4,
        ),
        Family(
            name="grounding-dino-official",
            tasks=_DETECTOR,
            load=_from("grounding_dino_official"),
            companions=("text_encoder",),
            extra="groundingdino",
            max_batch=4,
        ),
        Family(
            name="mm-grounding-dino",
            tasks=_DETECTOR,
            load=_with_engines_from("grounding_dino"),
            engines=frozenset({Engine.EAGER}),
            bf16_needs_amx=True,
            max_batch=4,
        ),
        Family(name="owlv2", tasks=_DETECTOR, load=_from("owlv2"), max_batch=4, box_threshold=0.1),
        Family(
            name="paligemma2",
            tasks=frozenset({Task.SEGMENT_TEXT}),
            load=_from("paligemma2"),
            companions=("mask_decoder",),
            max_batch=4,
            box_threshold=0.0,
        ),
        Family(name="clip", tasks=frozenset({Task.CLASSIFY}), load=_with_engines_from("clip"), engines=_ENGINES),
        Family(
            name="stable-diffusion",
            tasks=frozenset({Task.GENERATE}),
            load=_from("stable_diffusion"),
            extra="generate",
            max_batch=1,
        ),
    )
}
