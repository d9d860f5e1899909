"""Models under test: published sizes with random weights, made once."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from harness.photographs import boxes, photograph

CACHE = Path(__file__).parent.parent / "out" / "cache"
# Name -> family and architecture, as the official packages spell it.
PUBLISHED = {
    "sam2.1-tiny": ("sam2", "sam2.1_hiera_t"),
    "sam2.1-small": ("sam2", "sam2.1_hiera_s"),
    "sam2.1-base-plus": ("sam2", "sam2.1_hiera_b+"),
    "sam2.1-large": ("sam2", "sam2.1_hiera_l"),
    "sam-vit-b": ("sam", "vit_b"),
}


@dataclass(frozen=True)
class Subject:
    """A model and how to run it.

    Attributes:
        name: For the report.
        family: As settings call it.
        checkpoint: Its weights.
        config: Its architecture; None for a family that reads it off the weights.
        runtime: Further settings of the model, as engine and precision; empty for the server's own choice.
    """

    name: str
    family: str
    checkpoint: Path
    config: str | None
    runtime: tuple[tuple[str, str], ...] = ()

    def settings(self) -> dict[str, Any]:
        """As the server's `models` takes it."""
        given = {"name": "subject", "family": self.family, "checkpoint": str(self.checkpoint), **dict(self.runtime)}
        return given if self.config is None else given | {"config": self.config}

    def plain(self) -> "Subject":
        """The same in fp32 as PyTorch runs it, operation by operation."""
        return Subject(
            self.name, self.family, self.checkpoint, self.config, (("engine", "eager"), ("precision", "fp32"))
        )


def published(name: str, runtime: dict[str, str] | None = None) -> Subject:
    """A published size with random weights, from benchmarks/out/cache or made now.

    Raises:
        KeyError: There is no such size.
    """
    family, config = PUBLISHED[name]
    path = CACHE / f"{name}.pt"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        _write(family, config, path)
    return Subject(name, family, path, config, tuple(sorted((runtime or {}).items())))


def official(family: str, config: str, checkpoint: Path | None) -> Any:
    """What the official package makes: a SAM or a SAM 2 on the CPU, in eval mode.

    Args:
        family: "sam" or "sam2".
        config: An architecture's name, or for SAM 2 a file.
        checkpoint: Its weights; None leaves the random ones.
    """
    if family == "sam":
        from segment_anything import sam_model_registry  # noqa: PLC0415 - torch takes seconds

        return sam_model_registry[config](checkpoint).eval()
    from sam2.build_sam import build_sam2  # noqa: PLC0415

    return _built(build_sam2, config, checkpoint)


def official_video(config: str, checkpoint: Path) -> Any:
    """SAM 2's own video predictor on the CPU, but for holes, which it fills on GPUs alone; see `official`."""
    from sam2.build_sam import build_sam2_video_predictor  # noqa: PLC0415 - torch takes seconds

    return _built(partial(build_sam2_video_predictor, apply_postprocessing=False), config, checkpoint)


def _built(build: Callable[..., Any], config: str, checkpoint: Path | None) -> Any:
    from hydra import initialize_config_dir  # noqa: PLC0415
    from hydra.core.global_hydra import GlobalHydra  # noqa: PLC0415

    file = _config_file(config)
    GlobalHydra.instance().clear()  # sam2 points it at its own configs when it is imported
    with initialize_config_dir(str(file.parent.absolute()), version_base="1.2"):
        return build(file.name, None if checkpoint is None else str(checkpoint), device="cpu")


def _config_file(config: str) -> Path:
    if Path(config).is_file():
        return Path(config)
    from importlib import resources  # noqa: PLC0415

    return Path(str(resources.files("sam2"))) / "configs" / "sam2.1" / f"{config}.yaml"


def _write(family: str, config: str, path: Path) -> None:
    """Seeded weights whose masks are neither empty nor full, and smooth, so that their encodings have normal sizes."""
    import torch  # noqa: PLC0415

    torch.manual_seed(0)
    model = official(family, config, None)
    _, decoder = parts_of(family, model)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim > 1 and name.startswith(("image_encoder", "sam_", "mask_decoder", "prompt_encoder")):
                parameter.mul_(1.5)
        for layer in (decoder.output_upscaling[0], decoder.output_upscaling[3]):
            # One weight for all four pixels that a pixel becomes, or masks would be grids of dots.
            layer.weight.copy_(layer.weight.mean((2, 3), keepdim=True).expand_as(layer.weight) * 3)
        for network in decoder.output_hypernetworks_mlps:
            # Steep enough for SAM 2 to find every single mask stable, as it finds trained ones; else it takes another.
            network.layers[-1].weight *= 400
            network.layers[-1].bias *= 400
        # Predicted IoUs far enough apart for the best mask to be the same one in any precision.
        decoder.iou_prediction_head.layers[-1].bias += torch.linspace(0, 1, decoder.num_mask_tokens)
        _balance(model, family, decoder)
    save(family, model, path)


def parts_of(family: str, model: Any) -> tuple[Any, Any]:
    """The prompt encoder and the mask decoder of an official model."""
    if family == "sam":
        return model.prompt_encoder, model.mask_decoder
    return model.sam_prompt_encoder, model.sam_mask_decoder


def save(family: str, model: Any, path: Path) -> None:
    """Writes an official model as its package reads it."""
    import torch  # noqa: PLC0415

    state = model.state_dict()
    unfinished = path.with_suffix(".part")
    torch.save(state if family == "sam" else {"model": state}, unfinished)
    unfinished.rename(path)  # So that an interrupted run leaves no half of a file.


def _balance(model: Any, family: str, decoder: Any) -> None:
    """Shifts each mask token's logits so that a fifth is inside, over boxes on photographs.

    One feature of the decoder is made the same everywhere; its coefficients are the tokens' shifts.
    """
    import torch  # noqa: PLC0415

    constant = float(torch.nn.functional.gelu(torch.tensor(2.0)))
    last = decoder.output_upscaling[3]
    last.weight[:, 0] = 0
    last.bias[0] = 2
    if family == "sam2":  # Which adds finer features there.
        decoder.conv_s0.weight[0] = 0
        decoder.conv_s0.bias[0] = 0
    for network in decoder.output_hypernetworks_mlps:
        network.layers[-1].weight[0] = 0
        network.layers[-1].bias[0] = 0
    seen: list[torch.Tensor] = []
    predict = decoder.predict_masks

    def watched(*arguments: Any, **named: Any) -> Any:
        answer = predict(*arguments, **named)
        seen.append(answer[0])
        return answer

    decoder.predict_masks = watched
    predictor = predictor_of(family, model)
    for index in range(4):  # One of each photograph.
        predictor.set_image(photograph(index))
        for box in boxes(8):
            predictor.predict(box=box, multimask_output=True)
    del decoder.predict_masks
    logits = torch.cat(seen).transpose(0, 1).flatten(1)  # (tokens, boxes x pixels)
    for network, shift in zip(decoder.output_hypernetworks_mlps, np.quantile(logits.numpy(), 0.8, axis=1), strict=True):
        network.layers[-1].bias[0] = -float(shift) / constant


def predictor_of(family: str, model: Any) -> Any:
    """The official predictor around an official model."""
    if family == "sam":
        from segment_anything import SamPredictor  # noqa: PLC0415 - torch takes seconds

        return SamPredictor(model)
    from sam2.sam2_image_predictor import SAM2ImagePredictor  # noqa: PLC0415

    return SAM2ImagePredictor(model)
