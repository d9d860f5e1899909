"""Measurements as a picture."""

from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from cutout_client.cli.load import PERCENTILES, Level

_SHADES = ("#1b6ca8", "#5aa9d6", "#a9d3ea")
# Told apart by most eyes (Okabe and Ito), and in the order of a request.
_STAGES = {
    "queue_ms": "#bbbbbb",
    "decode_ms": "#e69f00",
    "rewrite_ms": "#cc79a7",
    "detect_ms": "#d55e00",
    "encode_ms": "#0072b2",
    "prompt_ms": "#009e73",
    "masks_ms": "#56b4e9",
    "classify_ms": "#f0e442",
    "generate_ms": "#000000",
    "elsewhere": "#dddddd",
}


def draw(levels: Sequence[Level], path: Path, title: str) -> None:
    """Draws latencies, answers a second and stages by the number of callers; the file's kind is its name's ending."""
    figure = Figure(figsize=(11, 4.2), layout="constrained")
    figure.suptitle(title)
    latency, rate, stages = figure.subplots(1, 3)
    names = [str(level.callers) for level in levels]
    for share, colour in zip(reversed(PERCENTILES), reversed(_SHADES), strict=True):
        latency.plot(names, [level.percentile(share) for level in levels], "o-", color=colour, label=f"p{share}")
    _finish(latency, "Latency", "ms")
    latency.legend(frameon=False)
    rate.bar(names, [level.per_second for level in levels], 0.6, color=_SHADES[0], label="answers")
    refused = [sum(level.refusals.values()) / level.seconds for level in levels]
    if any(refused):
        rate.bar(names, refused, 0.6, [level.per_second for level in levels], color="#d55e00", label="refused")
        rate.legend(frameon=False)
    _finish(rate, "Answers", "per second")
    base = [0.0] * len(levels)
    for name, colour in _STAGES.items():
        means = [max(level.stages_ms[name], 0.0) for level in levels]
        if max(means) < 0.01 * max(sum(level.stages_ms.values()) for level in levels):
            continue
        stages.bar(names, means, 0.6, base, color=colour, label=name.removesuffix("_ms"))
        base = [below + mean for below, mean in zip(base, means, strict=True)]
    _finish(stages, "Where the time goes", "ms, mean")
    handles, labels = stages.get_legend_handles_labels()
    stages.legend(handles[::-1], labels[::-1], frameon=False, loc="upper left")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)


def _finish(axes: Axes, title: str, unit: str) -> None:
    axes.set_title(title, fontsize="medium")
    axes.set_xlabel("callers at once")
    axes.set_ylabel(unit)
    axes.set_ylim(bottom=0)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="#eeeeee")
    axes.set_axisbelow(True)
