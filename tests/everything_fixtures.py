"""Small SAM 1 and SAM 2.1 whose masks are many, of many sizes and near their points, behind one real server."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest
import torch
from checkpoints import Sam2Files, narrow_config
from checkpoints import official_model as official_sam2
from conftest import Stubs, run_server
from sam_checkpoints import official_model as official_sam
from sam_checkpoints import sam_checkpoint, shape_answers  # noqa: F401 - a fixture
from torch.nn import functional

# Twice as wide as the narrow one: masks are made of more features.
WIDER = {
    "image_encoder__neck__d_model": 64,
    "image_encoder__neck__position_encoding__num_pos_feats": 64,
    "memory_attention__d_model": 64,
    "memory_attention__layer__d_model": 64,
    "memory_attention__layer__self_attention__embedding_dim": 64,
    "memory_attention__layer__cross_attention__embedding_dim": 64,
    "memory_encoder__in_dim": 64,
    "memory_encoder__mask_downsampler__embed_dim": 64,
    "memory_encoder__fuser__layer__dim": 64,
}


@cache
@torch.no_grad()
def _sam2_files(folder: Path) -> Sam2Files:
    config = narrow_config(folder, **WIDER)
    torch.manual_seed(4)
    model = official_sam2(config, None)
    for name, parameter in model.named_parameters():
        if parameter.ndim > 1 and name.startswith(("image_encoder", "sam_")):
            parameter.mul_(1.5)
    trunk, decoder = model.image_encoder.trunk, model.sam_mask_decoder
    few = torch.randn(1, trunk.pos_embed.shape[1], 3, 3)
    trunk.pos_embed.copy_(4 * functional.interpolate(few, trunk.pos_embed.shape[2:], mode="bicubic"))
    trunk.pos_embed_window.zero_()
    for skip in (decoder.conv_s0, decoder.conv_s1):
        skip.weight.mul_(0.3)
    decoder.conv_s0.weight[0] = 0
    shape_answers(decoder, logits=300, outside=100, iou=6)
    path = folder / "everything.pt"
    torch.save({"model": model.state_dict()}, path)
    return Sam2Files(path, config)


@dataclass(frozen=True)
class Everything:
    """A server with the models "sam" and "sam2", and what the official packages make of the same weights."""

    stubs: Stubs
    official: dict[str, torch.nn.Module]


@pytest.fixture(scope="module")
def everything(tmp_path_factory, sam_checkpoint) -> Iterator[Everything]:  # noqa: F811
    folder = tmp_path_factory.getbasetemp() / "everything"
    folder.mkdir(exist_ok=True)
    files = _sam2_files(folder)
    models = [
        {"name": "sam", "family": "sam", "checkpoint": str(sam_checkpoint)},
        {"name": "sam2", "family": "sam2", "checkpoint": str(files.checkpoint), "config": str(files.config)},
        {"name": "builtin", "family": "builtin"},
    ]
    official = {"sam": official_sam(sam_checkpoint), "sam2": official_sam2(files.config, files.checkpoint)}
    with run_server(models=models) as server, server.channel() as channel:
        yield Everything(Stubs.over(channel), official)
