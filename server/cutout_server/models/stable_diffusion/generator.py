"""The model at work: a pipeline and a scheduler of its own for each picture, over shared weights."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from cutout_server.errors import FailedPreconditionError, InvalidRequestError, TooLargeError
from cutout_server.models.pretrained import nbytes
from cutout_server.models.queries import AbandonedError, GenerateQuery
from cutout_server.models.stable_diffusion.prompts import TextEncoder, condition
from cutout_server.types import RgbImage


class StableDiffusion:
    """A `Generator` that answers as `diffusers.StableDiffusionPipeline` or its XL kin does without a safety checker.

    Noise is drawn on the CPU, as diffusers recommends for the sake of repetition.

    Args:
        pipeline: The pipeline's class.
        parts: Its parts but for the scheduler, models on their device and in eval mode. Nothing of them changes.
        scheduler: Its settings alone are used: schedulers keep state between their steps.
        options: Further arguments of the pipeline's class.
        device: Where the models are.
    """

    def __init__(
        self, pipeline: Any, parts: Mapping[str, Any], scheduler: Any, options: Mapping[str, Any], device: torch.device
    ) -> None:
        self._pipeline = pipeline
        self._parts = parts
        self._scheduler = scheduler
        self._options = options
        self._device = device
        names = [name for name in ("", "_2") if f"text_encoder{name}" in parts]
        self._encoders = [
            TextEncoder(parts[f"tokenizer{name}"], parts[f"text_encoder{name}"], penultimate=len(names) > 1)
            for name in names
        ]

    @property
    def nbytes(self) -> int:
        """Memory of the weights, in bytes."""
        return sum(nbytes(part) for part in self._parts.values() if isinstance(part, torch.nn.Module))

    def try_out(self) -> None:
        """Makes a small picture, which shows whether the parts fit each other.

        Raises:
            FailedPreconditionError: They do not.
        """
        query = GenerateQuery("a", "", 64, 64, 2, 7.5, 0, progress=lambda _: None, cancelled=lambda: False)
        try:
            self.generate([query])
        except MemoryError:
            raise
        except Exception as error:  # shapes that do not fit make the layers raise almost anything
            raise FailedPreconditionError(
                "the parts of the checkpoint do not fit each other, or it is not made for text alone: "
                f"{' '.join(str(error).split())[:300]}"
            ) from error

    @torch.inference_mode()
    def generate(self, queries: Sequence[GenerateQuery]) -> list[RgbImage]:
        """(height, width, 3) uint8 RGB for each query, one after the other.

        Raises:
            AbandonedError: Nobody waits for a picture any more.
            InvalidRequestError: The scheduler cannot take so many steps.
            TooLargeError: The device's memory does not hold such a picture on its way.
        """
        return [self._generate(query) for query in queries]

    def _generate(self, query: GenerateQuery) -> RgbImage:
        _go_on(query)
        pipeline = self._new_pipeline(query.steps)
        done = 0

        def after_step(pipeline: Any, index: int, _timestep: Any, _tensors: Any) -> dict[str, Any]:
            # Some schedulers pass through more timesteps than steps.
            nonlocal done
            before, done = done, (index + 1) * query.steps // pipeline.num_timesteps
            for step in range(before, done):
                query.progress(step + 1)
            _go_on(query)
            return {}

        own = pipeline.unet.config.sample_size
        own_height, own_width = (own, own) if isinstance(own, int) else own
        height = query.height or own_height * pipeline.vae_scale_factor
        width = query.width or own_width * pipeline.vae_scale_factor
        zeros = bool(self._options.get("force_zeros_for_empty_prompt", False))
        try:
            (picture,) = pipeline(
                **condition(self._encoders, query.prompt, query.negative_prompt, zeros=zeros),
                height=height,
                width=width,
                num_inference_steps=query.steps,
                guidance_scale=query.guidance,
                generator=torch.Generator("cpu").manual_seed(query.seed),
                callback_on_step_end=after_step,
            ).images
        except torch.OutOfMemoryError as error:
            raise TooLargeError(
                f"{self._device} has too little free memory for a picture of {width} x {height} pixels: "
                "ask for a smaller one",
                reason="PICTURE_TOO_LARGE",
            ) from error
        return np.array(picture)

    def _new_pipeline(self, steps: int) -> Any:
        scheduler = self._scheduler.from_config(self._scheduler.config)
        try:
            scheduler.set_timesteps(steps)
        except ValueError as error:
            raise InvalidRequestError.of(
                "steps", f"this generator's scheduler cannot take {steps}: {' '.join(str(error).split())[:200]}"
            ) from error
        pipeline = self._pipeline(**self._parts, scheduler=scheduler, **self._options)
        pipeline.set_progress_bar_config(disable=True)
        return pipeline


def _go_on(query: GenerateQuery) -> None:
    if query.cancelled():
        raise AbandonedError
