"""Embeddings kept as bfloat16: half of the bytes, and answers that are nearly the same."""

# ruff: noqa: F811 - a fixture is imported

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from checkpoints import Sam2Files, sam2_files  # noqa: F401
from conftest import Photo, Stubs, run_server
from cutout.v1 import image_pb2, mask_pb2
from cutout.v1 import segmentation_service_pb2 as pb2
from cutout_server.models.half_embeddings import compact, expand
from cutout_server.models.queries import DecodeQuery
from cutout_server.types import Box, ObjectPrompt
from probe_family import ProbeEmbedding
from pycocotools import mask as coco

PROMPT = ObjectPrompt(box=Box(0, 0, 4, 4))


@dataclass(frozen=True)
class Levels:
    """An embedding with a tensor, a tuple of them, and what is no tensor."""

    image_size: tuple[int, int]
    one: torch.Tensor
    several: tuple[torch.Tensor, ...]
    indices: torch.Tensor


def test_tensors_are_rounded_and_come_back_as_float32():
    """What bfloat16 can hold comes back exactly, the rest within its precision; other types stay as they are."""
    generator = torch.Generator().manual_seed(0)
    one, *several = (torch.randn(1, 8, 4, 4, generator=generator) for _ in range(3))
    indices = torch.arange(300)
    (kept,) = compact([Levels((3, 5), one, tuple(several), indices)])
    assert (kept.one.dtype, kept.several[1].dtype) == (torch.bfloat16, torch.bfloat16)
    first, second = expand([DecodeQuery(kept, PROMPT, False), DecodeQuery(kept, PROMPT, True)])
    assert first.embedding is second.embedding
    assert (first.multimask, second.multimask) == (False, True)
    back = first.embedding
    assert (back.image_size, back.one.dtype) == ((3, 5), torch.float32)
    assert back.indices is indices
    for made, original in zip((back.one, *back.several), (one, *several), strict=True):
        assert torch.equal(made, original.bfloat16().float())
        torch.testing.assert_close(made, original, rtol=2**-8, atol=0)
    (again,) = compact([back])
    assert torch.equal(again.one, kept.one)


def test_embeddings_without_tensors_stay_as_they_are():
    """The built-in model's, for one."""
    embedding = ProbeEmbedding((2, 2), 1.0)
    assert compact([embedding]) == [embedding]


@pytest.mark.slow
def test_it_halves_the_cache_and_hardly_moves_a_mask(sam2_files: Sam2Files, photos: dict[str, Photo]):
    """And the answer is the same whether the embedding was just made or was in the cache."""
    sam = {
        "name": "sam2.1",
        "family": "sam2",
        "checkpoint": str(sam2_files.checkpoint),
        "config": str(sam2_files.config),
    }
    box = mask_pb2.Box(x_min=60, y_min=20, x_max=400, y_max=290)
    image = image_pb2.Image(content=photos["astronaut"].jpeg)
    request = pb2.SegmentByBoxRequest(image=image, boxes=[box])
    masks, sizes = [], []
    for dtype in ("model", "bf16"):
        with run_server(models=[sam], embeddings_cache_dtype=dtype) as server, server.channel() as channel:
            stubs = Stubs.over(channel)
            made, found = (stubs.segmentation.SegmentByBox(request).segmentation for _ in range(2))
            assert (made.timings.embedding_cached, found.timings.embedding_cached) == (False, True)
            assert made.objects == found.objects
            rle = made.objects[0].masks[0].rle
            masks.append(coco.decode({"size": list(rle.size), "counts": rle.counts}).astype(bool))
            sizes.append(server.app.status().devices[0].embeddings.bytes)
    assert sizes[1] * 2 == sizes[0]
    plain, rounded = masks
    assert np.count_nonzero(plain & rounded) / np.count_nonzero(plain | rounded) > 0.98
