"""Grounding DINO as the server runs it beside transformers' own model, at the size of the tiny checkpoint.

    python benchmarks/grounding_dino.py [--rounds 5] [--threads 2] [--height 800] [--width 1066] [--json FILE]

No checkpoint is needed: the weights are drawn at random, spread so that boxes and scores vary, that each layer refines
the boxes a little, and that a query answers alike at whatever rank its place was chosen: a trained model is as patient,
and random weights that are not turn the last digit of a rank into another box. The runs take turns in
one process, and each takes the same picture and phrases; "new words" asks each time for phrases that were not asked
before. Seconds are of the clock and of all threads together (CPU); on a busy machine only the latter can be compared.
The last columns tell how far the boxes are from transformers': of the ten best boxes, how many have their like among
the other's ten best (IoU above 0.9), and the worst difference of the scores of those.
"""

import argparse
import copy
import itertools
import json
import math
import re
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from cutout_common.heap import keep_freed
from cutout_server.models.grounding_dino.fast_network import FastNetwork
from cutout_server.models.grounding_dino.prompts import Prompt
from cutout_server.models.grounding_dino.transformers_network import TransformersNetwork
from torch import Tensor
from torchvision.ops import box_convert, box_iou
from transformers import BertConfig, GroundingDinoConfig, GroundingDinoForObjectDetection

_TOP = 10
Answer = tuple[Tensor, Tensor]


def main() -> None:
    """Measures and prints a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--height", type=int, default=800)
    parser.add_argument("--width", type=int, default=1066)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    keep_freed()
    model = random_model()
    naive = TransformersNetwork(model)
    exact = FastNetwork(copy.deepcopy(model))
    half = FastNetwork(copy.deepcopy(model), torch.bfloat16)
    pixels = torch.randn(1, 3, arguments.height, arguments.width, generator=torch.Generator().manual_seed(0))
    pixels = torch.nn.functional.avg_pool2d(pixels, 9, 1, 4) * 9
    with torch.inference_mode():
        seen = exact.look(pixels)
    fresh = (prompt(word) for word in itertools.count(5000))
    runs: dict[str, Callable[[], Answer]] = {
        "transformers, fp32": lambda: naive(naive.look(pixels), [prompt()]),
        "server, fp32": lambda: exact(exact.look(pixels), [prompt()]),
        "server, fp32, new words": lambda: exact(exact.look(pixels), [next(fresh)]),
        "server, fp32, new words, picture seen before": lambda: exact(seen, [next(fresh)]),
        "server, bf16": lambda: half(half.look(pixels), [prompt()]),
        "server, bf16, new words": lambda: half(half.look(pixels), [next(fresh)]),
    }
    rows = measure(runs, arguments.rounds)
    for row in rows:
        alike = "" if row["matched"] is None else f"{row['matched']}/{_TOP} boxes, scores within {row['scores']:.1e}"
        print(
            f"{row['run']:<45} {row['seconds']:>7.2f} s {row['ratio']:>5.1f}x   "
            f"CPU {row['cpu_seconds']:>7.2f} s {row['cpu_ratio']:>5.1f}x   {alike}"
        )
    if arguments.json:
        arguments.json.write_text(json.dumps({"threads": arguments.threads, "runs": rows}, indent=1))


def prompt(word: int = 2000) -> Prompt:
    """Three phrases, four words: as token ids with bert-base-uncased's marks."""
    ids = (101, word, 1012, word + 1000, word + 2000, 1012, word + 3000, 1012, 102)
    return Prompt(ids, (-1, 0, -1, 1, 1, -1, 2, -1, -1))


def random_model() -> Any:
    """GroundingDinoForObjectDetection as the tiny checkpoint is built."""
    model: Any = GroundingDinoForObjectDetection(GroundingDinoConfig(text_config=BertConfig())).eval()
    generator = torch.Generator().manual_seed(0)
    for name, parameter in model.requires_grad_(requires_grad=False).named_parameters():
        if name.endswith("decoder.layer_norm.weight"):
            parameter.fill_(0.3)
        elif name.endswith("query_position_embeddings.weight"):
            parameter.copy_(torch.randn(parameter.shape[1], generator=generator).expand_as(parameter))
        elif parameter.ndim > 1:
            gentle = re.search(r"sampling_offsets|decoder.bbox_embed.*layers.2", name)
            spread = (0.2 if gentle else 1) / math.sqrt(parameter[0].numel())
            parameter.normal_(std=spread, generator=generator)
        elif name.endswith("bias"):
            parameter.normal_(std=0.1, generator=generator)
    return model


@torch.inference_mode()
def measure(runs: dict[str, Callable[[], Answer]], rounds: int) -> list[dict[str, Any]]:
    """Medians of each run, with its ratio to the first."""
    answers = {name: run() for name, run in runs.items()}  # Warms up, too.
    clock: dict[str, list[float]] = {name: [] for name in runs}
    work: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            started, worked = time.perf_counter(), time.process_time()
            run()
            clock[name].append(time.perf_counter() - started)
            work[name].append(time.process_time() - worked)
    first = next(iter(runs))
    rows = []
    for name, answer in answers.items():
        seconds, cpu = statistics.median(clock[name]), statistics.median(work[name])
        # New words have other answers than those of the first run.
        matched, scores = (None, None) if "new words" in name else agreement(answer, answers[first])
        rows.append(
            {
                "run": name,
                "seconds": seconds,
                "ratio": statistics.median(clock[first]) / seconds,
                "cpu_seconds": cpu,
                "cpu_ratio": statistics.median(work[first]) / cpu,
                "matched": matched,
                "scores": scores,
            }
        )
    return rows


def agreement(answer: Answer, expected: Answer) -> tuple[int, float]:
    """How many of the best boxes have their like, and by how much their scores differ at most."""
    (boxes, scores), (others, other_scores) = best(answer), best(expected)
    overlap, like = box_iou(boxes, others).max(dim=1)
    close = overlap > 0.9
    apart = (scores - other_scores[like]).abs()[close]
    return int(close.sum()), float(apart.max()) if len(apart) else math.nan


def best(answer: Answer) -> tuple[Tensor, Tensor]:
    """Boxes and scores of the first picture's best."""
    scores, queries = answer[0][0].amax(-1).sigmoid().topk(_TOP)
    return box_convert(answer[1][0][queries], "cxcywh", "xyxy"), scores


if __name__ == "__main__":
    main()
