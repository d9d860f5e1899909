"""Many prompts on one picture: the mask decoders of SAM 1 and 2 as the server runs them beside the official modules.

    python benchmarks/decoder.py [--rounds 7] [--threads 2] [--prompts 1 4 16 64] [--json FILE]

No checkpoint is needed: at the published sizes the weights and embeddings are drawn at random, as their values change
nothing of the work. A prompt is one point or one box, the masks are the three of a multimask answer. They take turns
in one process. Seconds are of the clock and of all threads together (CPU); on a busy machine compare the latter. Apart
is the mean difference of two logits, in units of the logits' standard deviation; IoU is that of the masks, whose edges
are noise with random weights.
"""

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from cutout_common.heap import keep_freed
from cutout_server.models.mask_decoder import MaskDecoder
from harness.iou import iou
from harness.report import Report, Row, Table
from harness.rounds import Sample, interleave, ratio
from sam2.modeling.sam.mask_decoder import MaskDecoder as Sam2MaskDecoder
from sam2.modeling.sam.transformer import TwoWayTransformer as Sam2TwoWayTransformer
from segment_anything.modeling import MaskDecoder as SamMaskDecoder
from segment_anything.modeling import TwoWayTransformer
from torch import Tensor

WIDTH, GRID = 256, 64
TRANSFORMER = {"depth": 2, "embedding_dim": WIDTH, "mlp_dim": 2048, "num_heads": 8}
MULTIMASK = slice(1, None)
Decode = Callable[[], Tensor]


def main() -> None:
    """Measures and prints a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--prompts", type=int, nargs="+", default=[1, 4, 16, 64])
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    keep_freed()
    torch.manual_seed(0)
    modules: dict[str, Any] = {
        "SAM": SamMaskDecoder(
            num_multimask_outputs=3, transformer=TwoWayTransformer(**TRANSFORMER), transformer_dim=WIDTH
        ),
        "SAM 2.1": Sam2MaskDecoder(
            num_multimask_outputs=3,
            transformer=Sam2TwoWayTransformer(**TRANSFORMER),
            transformer_dim=WIDTH,
            use_high_res_features=True,
            iou_prediction_use_sigmoid=True,
            pred_obj_scores=True,
            pred_obj_scores_mlp=True,
        ),
    }
    rows = [
        row
        for name, module in modules.items()
        for prompts in arguments.prompts
        for row in measure(name, module.eval(), prompts, arguments.rounds)
    ]
    conditions = {"rounds": arguments.rounds, "threads": arguments.threads}
    report = Report("decoder", [Table("Prompts of one picture in one call", rows)], conditions)
    print(report)
    if arguments.json:
        report.write(arguments.json)


@torch.inference_mode()
def measure(family: str, module: Any, prompts: int, rounds: int) -> list[Row]:
    """Medians of all, and how far their answers are apart."""
    runs = {
        "official": official(module, prompts),
        "fp32": served(module, prompts, torch.float32),
        "bf16": served(module, prompts, torch.bfloat16),
    }
    logits = {name: run() for name, run in runs.items()}
    cpu: dict[str, list[float]] = {name: [] for name in runs}

    def timed(name: str) -> Callable[[], float]:
        def run() -> float:
            started, worked = time.perf_counter(), time.process_time()
            runs[name]()
            cpu[name].append(time.process_time() - worked)
            return time.perf_counter() - started

        return run

    clock = interleave({name: timed(name) for name in runs}, rounds, warmups=0)
    truth = logits["official"]
    return [
        {
            "family": family,
            "prompts": prompts,
            "decoder": name,
            "ratio": ratio(clock["official"], clock[name]).median,
            "ms": Sample.of(clock[name]).median * 1000,
            "CPU ratio": ratio(cpu["official"], cpu[name]).median,
            "CPU ms": Sample.of(cpu[name]).median * 1000,
            "apart": float((truth - own).abs().mean() / truth.std()),
            "mean IoU": float(np.mean([iou(*pair) for pair in zip(truth.numpy() > 0, own.numpy() > 0, strict=True)])),
        }
        for name, own in logits.items()
    ]


def official(module: Any, prompts: int) -> Decode:
    """As the predictors call it."""
    image, positions, sparse, dense, finer = embeddings(prompts)
    if isinstance(module, Sam2MaskDecoder):
        more: dict[str, Any] = {"repeat_image": True, "high_res_features": finer}
    else:
        more = {}
    return lambda: module(
        image_embeddings=image,
        image_pe=positions,
        sparse_prompt_embeddings=sparse,
        dense_prompt_embeddings=dense.expand(prompts, -1, -1, -1),
        multimask_output=True,
        **more,
    )[0]


def served(module: Any, prompts: int, dtype: torch.dtype) -> Decode:
    """As the segmenters call it."""
    image, positions, sparse, dense, finer = embeddings(prompts)
    decoder = MaskDecoder(module, positions, dtype)
    # The embeddings of SAM 2 keep them so.
    finer = [features.contiguous(memory_format=torch.channels_last) for features in finer]
    if not isinstance(module, Sam2MaskDecoder):
        finer = []
    return lambda: decoder(image, sparse, dense, finer, masks=MULTIMASK)[0]


def embeddings(prompts: int) -> tuple[Tensor, Tensor, Tensor, Tensor, list[Tensor]]:
    """Of the image, of its positions, of prompts of two tokens, of no mask, and the finer ones of SAM 2."""
    torch.manual_seed(prompts)
    image, positions = torch.randn(2, 1, WIDTH, GRID, GRID)
    sparse = torch.randn(prompts, 2, WIDTH)
    dense = torch.randn(1, WIDTH, 1, 1).expand(-1, -1, GRID, GRID)
    finer = [torch.randn(1, WIDTH // 2**k, GRID * side, GRID * side) for k, side in ((3, 4), (2, 2))]
    return image, positions, sparse, dense, finer


if __name__ == "__main__":
    main()
