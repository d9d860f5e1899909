"""What a model family says of itself."""

from collections.abc import Callable
from dataclasses import dataclass

from cutout_server.models.protocols import Model
from cutout_server.models.runtime import Engine, Runtime
from cutout_server.types import ModelFiles, Task


@dataclass(frozen=True)
class Family:
    """A kind of model and how to load one.

    Attributes:
        name: What settings call it.
        tasks: What it can do.
        load: (files, device, runtime) -> model, ready for use on that device ("cpu", "cuda:0" ...). Raises
            FailedPreconditionError, with a text that says what to do, when the files cannot be used.
        engines: That can run its encoder; empty for models that leave no choice. Their `load` does not look
            at the runtime.
        bf16_needs_amx: Whether bf16 gains too little on a CPU without AMX for `auto` to leave the answers of fp32.
        needs_checkpoint: Whether settings must name one.
        companions: Further files that settings must name.
        optional_companions: Further files that settings may name, for some checkpoints of the family.
        extra: The extra of the `cutout` distribution that brings its packages.
        exemplars: Whether it takes boxes around examples of what is wanted.
        proposes: Whether its models are Proposers too.
        stills: The model_type of folders that are for pictures alone, and so cannot track; empty when there are none.
        max_batch: Most jobs in one pass that it gains from; a pass cannot be interrupted, so no more than that.
        vocabulary: The only words that it understands; empty when it has no such list.
        box_threshold: Default for detection.
        text_threshold: Default for detection.
        predicted_iou_threshold: Default for everything.
        stability_threshold: Default for everything.
        max_logit: Callers get logits clamped to [-max_logit, max_logit], as the reference's predictor hands them out.
    """

    name: str
    tasks: frozenset[Task]
    load: Callable[[ModelFiles, str, Runtime], Model]
    engines: frozenset[Engine] = frozenset()
    bf16_needs_amx: bool = False
    needs_checkpoint: bool = True
    companions: tuple[str, ...] = ()
    optional_companions: tuple[str, ...] = ()
    extra: str = "server"
    exemplars: bool = False
    proposes: bool = False
    stills: str = ""
    max_batch: int = 64
    vocabulary: tuple[str, ...] = ()
    box_threshold: float = 0.35
    text_threshold: float = 0.25
    predicted_iou_threshold: float = 0.8
    stability_threshold: float = 0.95
    max_logit: float = 32.0
