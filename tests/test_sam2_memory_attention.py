"""Memory attention by fewer multiplications answers as SAM 2's own does, and objects are followed as by it."""

from pathlib import Path

import numpy as np
import pytest
import torch
from checkpoints import narrow_config, write_sam2
from conftest import run_server
from cutout_client import Client
from cutout_server.models.runtime import EXACT, Engine, Precision, Runtime
from cutout_server.models.sam2 import Sam2, architecture, load, memory_attention
from cutout_server.models.sam2.memory_attention import FrameMemoryAttention
from cutout_server.types import ModelFiles
from sam2.modeling.memory_attention import MemoryAttention, MemoryAttentionLayer
from sam2.modeling.sam.transformer import RoPEAttention
from tracking_cases import SIZES, Session, blob, points, video
from waiting import PATIENCE_S

SIDE, WIDTH, MEMORY, POINTERS = 8, 32, 16, 6
SINGLE, HALF = (Runtime(Engine.EAGER, each) for each in (Precision.FP16, Precision.BF16))  # The first in float32.


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    with torch.inference_mode():
        yield
    torch.set_num_threads(before)


def official() -> MemoryAttention:
    """As the architectures have it, but narrow; every parameter matters, and attention prefers some tokens."""
    torch.manual_seed(2)
    form = {"embedding_dim": WIDTH, "num_heads": 1, "feat_sizes": (SIDE, SIDE)}
    layer = MemoryAttentionLayer(
        activation="relu",
        cross_attention=RoPEAttention(**form, rope_k_repeat=True, kv_in_dim=MEMORY),
        d_model=WIDTH,
        dim_feedforward=64,
        dropout=0.1,
        pos_enc_at_attn=False,
        pos_enc_at_cross_attn_keys=True,
        pos_enc_at_cross_attn_queries=False,
        self_attention=RoPEAttention(**form),
    )
    made = MemoryAttention(WIDTH, pos_enc_at_input=True, layer=layer, num_layers=3).eval()
    for parameter in made.parameters():
        parameter.normal_(parameter.mean(), 0.3)
    return made


@pytest.mark.parametrize("frames", [1, 5])
def test_answers_are_the_official_ones(frames: int, monkeypatch: pytest.MonkeyPatch):
    """For three objects that remember different things of the same frames, and pointers that lie nowhere.

    In bf16 no more is rounded off than the official module does under autocast, as its authors run it.
    """
    monkeypatch.setattr(memory_attention, "_TOKENS_AT_ONCE", 24)
    module, tokens = official(), SIDE * SIDE
    remembered = frames * tokens + POINTERS
    given = {
        "curr": [torch.randn(tokens, 1, WIDTH).expand(-1, 3, -1)],
        "curr_pos": [torch.randn(tokens, 1, WIDTH).expand(-1, 3, -1)],
        "memory": torch.randn(remembered, 3, MEMORY),
        "memory_pos": torch.randn(remembered, 3, MEMORY),
        "num_obj_ptr_tokens": POINTERS,
    }
    theirs = module(**given)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = error(module(**given), theirs)
    assert error(theirs[:, :1], theirs[:, 1:]) > 0.3
    assert error(FrameMemoryAttention(module, SIDE, torch.float32)(**given), theirs) < 1e-5
    assert error(FrameMemoryAttention(module, SIDE, torch.bfloat16)(**given), theirs) < rounded < 0.1


def error(some: torch.Tensor, others: torch.Tensor) -> float:
    """What is between them, beside what is between their values."""
    return float((some - others).square().mean().sqrt() / others.std())


def checkpoint(folder: Path, **changes: object) -> ModelFiles:
    config = narrow_config(folder, image_size=256, num_maskmem=3, max_obj_ptrs_in_encoder=4, **changes)
    path = write_sam2(folder, config)
    weights = torch.load(path, weights_only=True)
    weights["model"]["sam_mask_decoder.pred_obj_score_head.layers.2.bias"] += 2  # Random weights see no object.
    torch.save(weights, path)
    return ModelFiles(path, str(config))


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(architecture, "_SIDE", 256)


def attention(model: Sam2) -> type:
    return type(model._tracker._model.memory_attention)


@pytest.mark.usefixtures("small")
def test_objects_are_followed_as_by_the_exact_model(tmp_path):
    """Three objects through six frames, by the same features: the same logits in float32, nearly the same in bf16."""
    files = checkpoint(tmp_path)
    exact, single, half = (load(files, "cpu", runtime) for runtime in (EXACT, SINGLE, HALF))
    assert attention(exact) is MemoryAttention
    assert attention(single) is attention(half) is FrameMemoryAttention
    size = SIZES["square"]
    sessions = [Session(exact), Session(single), Session(half)]
    prompts = {1: points(size, (0.4, 0.3, 1)), 2: points(size, box=(0.2, 0.1, 0.7, 0.9)), 3: blob(size)}
    seen = []
    for number, pixels in enumerate(video(size, 6)):
        (embedding,) = exact.encode([pixels])
        for session in sessions:
            session.frame = number
            session.embeddings = {number: embedding}
        asked = {each: None if number else prompts[each] for each in prompts}
        seen += [np.stack([one.logits for one in session.find(number, asked).values()]) for session in sessions]
    theirs, *others = (np.stack(seen[which :: len(sessions)]) for which in range(len(sessions)))
    for ours, error, overlap in zip(others, (1e-4, 0.01), (0.999, 0.99), strict=True):
        assert (ours - theirs).std((2, 3)).max() < error * theirs.std((2, 3)).min()
        assert ((ours > 0) & (theirs > 0)).sum() > overlap * ((ours > 0) | (theirs > 0)).sum()


@pytest.mark.usefixtures("small")
def test_another_form_of_attention_stays_the_official_one(tmp_path):
    """With two heads, for one, objects are followed by the package's own module."""
    files = checkpoint(tmp_path, memory_attention__layer__self_attention__num_heads=2)
    model = load(files, "cpu", HALF)
    assert attention(model) is MemoryAttention
    size = SIZES["square"]
    session = Session(model)
    for number, pixels in enumerate(video(size, 2)):
        found = session.step(pixels, {} if number else {1: points(size, (0.4, 0.3, 1))})
        assert 0 < found[1].mean() < 1


@pytest.mark.usefixtures("small")
def test_precision_says_by_which_of_them_a_server_follows(tmp_path):
    """Two objects, live, by two models of the same weights: nearly the same masks though all of one is in bf16."""
    files = checkpoint(tmp_path)
    model = {"family": "sam2", "checkpoint": str(files.checkpoint), "config": files.config, "engine": "eager"}
    models = [{**model, "name": precision, "precision": precision} for precision in ("fp32", "bf16")]
    frames, boxes = video(SIZES["square"], 3), [(20, 10, 70, 85), (5, 40, 60, 90)]
    with run_server(models=models) as server, Client(server.address, timeout_s=PATIENCE_S) as client:
        followed = []
        for each in models:
            with client.live(frames, boxes=boxes, tracker=each["name"]) as live:
                followed.append(np.stack([[found.mask for found in frame] for frame in live]))
    exact, half = followed
    assert 0.05 < exact.mean() < 0.95
    assert (exact != half).any()
    assert (exact & half).sum() > 0.95 * (exact | half).sum()
