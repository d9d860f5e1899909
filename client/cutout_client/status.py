"""What a server says about itself."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Model:
    """A model that requests may name.

    Attributes:
        name: The name that requests use.
        family: What it is built on.
        tasks: "segment", "detect", "everything", "segment_text", "classify", "generate", "track".
        description: For people.
        loaded_on: Devices that hold it now.
        memory_bytes: What it takes on a device; 0 until it was loaded once.
        vocabulary: The only words that it understands; empty when it is not limited to a list.
        default_for: The tasks for which it is taken when a request names no model.
        exemplars: Whether `segment_text` may give it exemplars.
        engines: What runs its encoder on the devices that hold it, and in which precision: "openvino bf16" ...; empty
            while it is not loaded, and for models that leave no choice.
    """

    name: str
    family: str
    tasks: tuple[str, ...]
    description: str
    loaded_on: tuple[str, ...]
    memory_bytes: int
    vocabulary: tuple[str, ...]
    default_for: tuple[str, ...]
    exemplars: bool = False
    engines: tuple[str, ...] = ()


@dataclass(frozen=True)
class CacheStatus:
    """A cache: what it holds, its bound, and how often it helped since the start."""

    entries: int
    bytes: int
    capacity_bytes: int
    hits: int
    misses: int


@dataclass(frozen=True)
class DeviceStatus:
    """One device and its pool.

    Attributes:
        name: "cpu", "cuda:0" ...
        models: Names of the loaded models, the least recently used first.
        requests: Admitted and not finished.
        queued_jobs: Jobs that wait.
        capacity: The greatest number of requests admitted at once.
        jobs: Done since the start.
        batches: Passes through a model since the start.
        model_bytes: Memory of the loaded models.
        memory_budget_bytes: The bound on it; 0 means none.
        embeddings: The embeddings cache.
    """

    name: str
    models: tuple[str, ...]
    requests: int
    queued_jobs: int
    capacity: int
    jobs: int
    batches: int
    model_bytes: int
    memory_budget_bytes: int
    embeddings: CacheStatus


@dataclass(frozen=True)
class ImageStoreStatus:
    """The pictures that were uploaded: how many, their bytes, and the bound on these."""

    images: int
    bytes: int
    capacity_bytes: int


@dataclass(frozen=True)
class CallerStatus:
    """What one caller uses of the server, by the name that the operator gave its keys."""

    name: str
    requests_in_hand: int
    sessions: int
    stored_images: int
    stored_bytes: int
    unfinished_uploads: int
    unfinished_upload_bytes: int


@dataclass(frozen=True)
class ServerStatus:
    """A server at this moment.

    Attributes:
        version: The server's.
        commit: That its code is from; "unknown" where nothing told, empty from servers that do not say.
        state: "starting", "serving" or "draining".
        uptime_seconds: Since it started.
        devices: One for each device.
        image_store: The uploaded pictures.
        answers: Those kept for equal requests; its bound is 0 where none are.
        callers: What each uses; empty from servers that do not say.
    """

    version: str
    state: str
    uptime_seconds: float
    devices: tuple[DeviceStatus, ...]
    image_store: ImageStoreStatus
    answers: CacheStatus
    commit: str = ""
    callers: tuple[CallerStatus, ...] = ()
