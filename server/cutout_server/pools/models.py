"""The models that one device holds, within its memory budget, beside what sessions remember there."""

from collections import OrderedDict
from collections.abc import Callable

import structlog
from cutout_common.heap import trim

from cutout_server.catalogue import Loaded, ModelSpec
from cutout_server.errors import FailedPreconditionError, OverloadedError
from cutout_server.models.memory import give_back
from cutout_server.models.protocols import Model
from cutout_server.models.runtime import Runtime
from cutout_server.weights import size_bytes

log = structlog.get_logger()

# Whoever holds memory holds it for as long as its session lasts, and nobody knows how long that is.
TRACKING_RETRY_S = 5.0
NO_MEMORY = "TRACKING_MEMORY"


class LoadedModels:
    """Least recently used models leave first. Used by the device's worker thread alone, except for `sizes`.

    Attributes:
        loads: How often each model was loaded.
        remembered_bytes: Room that is kept for what sessions remember of objects on this device; the event loop's to
            set.
    """

    def __init__(self, device: str, budget_bytes: int, on_unload: Callable[[str], None]) -> None:
        self.device = device
        self.budget_bytes = budget_bytes
        self.loads: dict[str, int] = {}
        self.remembered_bytes = 0
        self._on_unload = on_unload
        self._models: OrderedDict[str, Loaded] = OrderedDict()  # The least recently used first.

    def sizes(self) -> dict[str, int]:
        """Bytes by name, the least recently used first."""
        return {name: loaded.model.nbytes for name, loaded in list(self._models.items())}

    def runtimes(self) -> dict[str, Runtime]:
        """What runs the models' encoders, by name."""
        return {name: loaded.runtime for name, loaded in list(self._models.items())}

    def get(self, spec: ModelSpec, *, may_export: bool = False) -> Model:
        """The model, loaded if it is not, others unloaded if it would not fit.

        Args:
            spec: Which.
            may_export: Whether its engine may take minutes to make what it needs of the checkpoint.

        Raises:
            FailedPreconditionError: Its files cannot be used, or it alone exceeds the budget.
            OverloadedError: It exceeds what sessions leave of the budget.
        """
        held = self._models.get(spec.name)
        if held is not None:
            self._models.move_to_end(spec.name)  # In one step: whoever looks from another thread sees it all the time.
            return held.model
        # The files' size foretells the model's, so that room is made before both lie in memory.
        self._make_room(size_bytes(spec.files()))
        loaded = spec.load(self.device, may_export=may_export)
        model = loaded.model
        trim()  # Of loading: the file's own copy of the weights.
        if self.budget_bytes and model.nbytes > self.budget_bytes:
            size = model.nbytes
            del model, loaded
            give_back(self.device)
            raise FailedPreconditionError(
                f"model {spec.name!r} takes {size} bytes; {self.device} may hold {self.budget_bytes}",
                reason="MODEL_TOO_LARGE",
            )
        self._make_room(model.nbytes)
        if not self.fits(model.nbytes + self.remembered_bytes):
            size = model.nbytes
            del model, loaded
            give_back(self.device)
            raise OverloadedError(
                f"model {spec.name!r} takes {size} bytes; of the {self.budget_bytes} that {self.device} may hold, "
                f"{self.remembered_bytes} are what sessions remember of objects; come back when some have ended",
                reason=NO_MEMORY,
                retry_after_s=TRACKING_RETRY_S,
            )
        self._models[spec.name] = loaded
        self.loads[spec.name] = self.loads.get(spec.name, 0) + 1
        runtime = {"engine": loaded.runtime.engine.value, "precision": loaded.runtime.precision.value}
        log.info("model loaded", model=spec.name, device=self.device, bytes=model.nbytes, **runtime)
        return model

    def unload(self, name: str) -> None:
        """Forgets a model and gives its memory back; does nothing when it is not loaded."""
        if self._models.pop(name, None) is not None:
            self._on_unload(name)
            give_back(self.device)
            log.info("model unloaded", model=name, device=self.device)

    def fits(self, nbytes: int) -> bool:
        """Whether the device may hold so much."""
        return not self.budget_bytes or nbytes <= self.budget_bytes

    def make_room(self) -> None:
        """Unloads what no longer fits beside what sessions remember."""
        self._make_room(0)

    def _make_room(self, nbytes: int) -> None:
        while self._models and not self.fits(sum(self.sizes().values()) + self.remembered_bytes + nbytes):
            self.unload(next(iter(self._models)))
