"""A model in a loop without a server, in a process of its own: nothing that one side sets reaches the other."""

import multiprocessing
import resource
import time
import warnings
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray

from harness.photographs import photograph
from harness.subjects import CACHE, Subject, official, predictor_of

Boxes = NDArray[np.float64]
# Pixels and groups of boxes -> the masks of all boxes, as (H, W) bool or patches of it; each group is asked for on its
# own, on one embedding.
Work = Callable[[NDArray[np.uint8], Sequence[Boxes]], list[Any]]


@dataclass(frozen=True)
class Job:
    """A picture and its boxes.

    Attributes:
        index: Of `photograph`; made in the loop's own process before its clock starts.
        size: (height, width).
        boxes: (N, 4) in pixels; none for the encoder alone.
        separately: Whether the boxes are asked for one after the other on one embedding, instead of all at once.
        answer: Whether the masks are wanted back.
    """

    index: int
    size: tuple[int, int]
    boxes: Boxes
    separately: bool = False
    answer: bool = False


@dataclass(frozen=True)
class Outcome:
    """What a job took.

    Attributes:
        seconds: From pixels in hand to masks in hand.
        peak_bytes: Most memory that the process has held so far.
        masks: (N, H, W) bool when they were wanted.
    """

    seconds: float
    peak_bytes: int
    masks: NDArray[np.bool_] | None = None


class Loop:
    """A process that holds one model and does one job after the other.

    Args:
        kind: "official" is the package's own predictor, called as its documentation shows; "raw" is the server's own
            model class with whatever engine the subject names.
        subject: The model.

    Attributes:
        runtime: What runs it, as "openvino bf16".
        ready_s: From the start of its process to the loaded model.
    """

    def __init__(self, kind: Literal["official", "raw"], subject: Subject) -> None:
        context = multiprocessing.get_context("spawn")
        self._here, there = context.Pipe()
        self._process = context.Process(target=_serve, args=(there, kind, subject), daemon=True)
        started = time.perf_counter()
        self._process.start()
        there.close()
        (self.runtime,) = self._receive()
        self.ready_s = time.perf_counter() - started

    def __call__(self, job: Job) -> Outcome:
        """Does the job.

        Raises:
            RuntimeError: The model failed; the text says how.
        """
        self._here.send(job)
        return self._receive()

    def _receive(self) -> Any:
        try:
            answer = self._here.recv()
        except EOFError as error:
            self._process.join()
            raise RuntimeError(f"the loop's process ended with {self._process.exitcode}") from error
        if isinstance(answer, str):
            raise RuntimeError(answer)  # noqa: TRY004 - it is what the other process reports
        return answer

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._here.close()
        self._process.join(10)
        if self._process.is_alive():
            self._process.kill()


def _serve(pipe: Connection, kind: str, subject: Subject) -> None:
    warnings.simplefilter("ignore")  # The official packages' own, which say nothing about speed.
    try:
        work, runtime = (official_work if kind == "official" else raw_work)(subject)
        pipe.send((runtime,))
        with suppress(EOFError):
            while True:
                job: Job = pipe.recv()
                pixels = photograph(job.index, job.size)
                groups = np.split(job.boxes, len(job.boxes)) if job.separately else [job.boxes]
                groups = [group for group in groups if len(group)]
                started = time.perf_counter()
                masks = work(pixels, groups)
                seconds = time.perf_counter() - started
                peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
                pipe.send(Outcome(seconds, peak, np.stack([_whole(mask) for mask in masks]) if job.answer else None))
    except Exception as error:  # noqa: BLE001 - whatever it is, it belongs to the process that waits
        pipe.send(f"{kind} {subject.name}: {type(error).__name__}: {error}")


def _whole(mask: Any) -> NDArray[np.bool_]:
    """A mask at the picture's size, from itself or from a patch of it."""
    whole: NDArray[np.bool_] = mask if isinstance(mask, np.ndarray) else mask.whole()
    return whole


def official_work(subject: Subject) -> tuple[Work, str]:
    """The official predictors as their notebooks use them: set_image, then all boxes of a group in one call."""
    predictor = predictor_of(subject.family, official(subject.family, subject.config or "", subject.checkpoint))
    if subject.family == "sam2":

        def predict(boxes: Boxes, size: tuple[int, int]) -> NDArray[np.bool_]:
            masks, _, _ = predictor.predict(box=boxes, multimask_output=False)
            return masks.reshape(-1, *size) > 0
    else:
        import torch  # noqa: PLC0415 - it takes seconds

        def predict(boxes: Boxes, size: tuple[int, int]) -> NDArray[np.bool_]:
            transformed = predictor.transform.apply_boxes_torch(torch.as_tensor(boxes), size)
            masks, _, _ = predictor.predict_torch(None, None, boxes=transformed, multimask_output=False)
            answer: NDArray[np.bool_] = masks[:, 0].numpy()
            return answer

    def work(pixels: NDArray[np.uint8], groups: Sequence[Boxes]) -> list[Any]:
        predictor.set_image(pixels)
        return [mask for boxes in groups for mask in predict(boxes, pixels.shape[:2])]

    return work, "eager fp32"


def raw_work(subject: Subject) -> tuple[Work, str]:
    """The server's own model by its Protocol; no queue, no files, no encoding of masks."""
    model, runtime = raw_model(subject)
    return partial(masks_of, model), runtime


def raw_model(subject: Subject) -> tuple[Any, str]:
    """That model, and what runs it."""
    from cutout_server.catalogue import Catalogue  # noqa: PLC0415 - its models import torch
    from cutout_server.settings import ModelSettings, Settings  # noqa: PLC0415

    settings = Settings(models=(ModelSettings.model_validate(subject.settings()),), weights_dir=CACHE)
    loaded = Catalogue.of(settings).specs["subject"].load("cpu", may_export=True)
    return loaded.model, f"{loaded.runtime.engine.value} {loaded.runtime.precision.value}"


def masks_of(model: Any, pixels: NDArray[np.uint8], groups: Sequence[Boxes]) -> list[Any]:
    """A `Segmenter`'s masks of all boxes: encode, decode, masks."""
    from cutout_server.models.queries import DecodeQuery, MaskQuery  # noqa: PLC0415 - as above
    from cutout_server.types import Box, ObjectPrompt  # noqa: PLC0415

    (embedding,) = model.encode([pixels])
    masks: list[Any] = []
    for boxes in groups:
        prompts = [ObjectPrompt(box=Box(*box)) for box in boxes.tolist()]
        candidates = model.decode([DecodeQuery(embedding, prompt, multimask=False) for prompt in prompts])
        masks += model.masks([MaskQuery(embedding, each.logits[0], 0.0) for each in candidates])
    return masks
