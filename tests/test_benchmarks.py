"""The benchmarks' statistics, and every scenario on a narrow model: that they run and what they count; no speed."""

import importlib
import json
import os
import sys
import warnings
from contextlib import contextmanager, nullcontext
from pathlib import Path

import numpy as np
import pytest
from checkpoints import sam2_files  # noqa: F401 - a fixture
from conftest import run_server

sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))

import simulation
from harness import fitting, rounds
from harness.apart import Step
from harness.iou import iou
from harness.loops import Outcome, Work, _whole, official_work, raw_work
from harness.photographs import MEGAPIXEL, Stock, boxes, photograph
from harness.plots import Bars, Lines
from harness.report import Report, Table
from harness.scenario import Plan
from harness.servers import Running
from harness.subjects import Subject, official


def test_a_sample_has_median_and_quartiles():
    """Interpolated linearly, as NumPy does by default."""
    values = [7.0, 1.0, 3.0, 9.0, 4.0, 2.0]
    sample = rounds.Sample.of(values)
    assert [sample.low, sample.median, sample.high] == pytest.approx(np.quantile(values, [0.25, 0.5, 0.75]).tolist())
    assert sample.n == 6
    assert rounds.quantile(values, 0.99) == pytest.approx(np.quantile(values, 0.99))
    with pytest.raises(ValueError, match="at least one"):
        rounds.Sample.of([])


def test_contenders_take_turns():
    """A B C A B C, warm-ups first and uncounted."""
    order: list[str] = []
    times = rounds.interleave({name: lambda name=name: order.append(name) or len(order) for name in "ABC"}, rounds=2)
    assert "".join(order) == "ABCABCABC"
    assert times == {"A": [4, 7], "B": [5, 8], "C": [6, 9]}


def test_a_ratio_compares_round_by_round():
    """A round in which the whole machine was slow changes nothing."""
    assert rounds.ratio([2.0, 20.0, 4.0], [1.0, 10.0, 2.0]) == rounds.Sample(2.0, 2.0, 2.0, 3)


def test_a_rate_is_counted_between_ends():
    """Neither edge of a window loses a fraction of an event."""
    assert rounds.rate([0.0, 10.0, 10.5, 11.0, 11.5], skip=1) == pytest.approx(2.0)
    with pytest.raises(ValueError, match="two events"):
        rounds.rate([1.0, 2.0], skip=1)


def test_photographs_are_all_different_and_always_the_same():
    """By index."""
    assert photograph(3, (60, 80)).shape == (60, 80, 3)
    assert np.array_equal(photograph(3, (60, 80)), photograph(3, (60, 80)))
    stock = Stock((60, 80))
    assert len(set(stock.take(20) + stock.take(20))) == 40


@pytest.mark.parametrize("count", [1, 8, 20, 64])
def test_boxes_lie_inside(count):
    """And hold something."""
    corners, (height, width) = boxes(count), MEGAPIXEL
    assert corners.shape == (count, 4)
    assert ((corners[:, 2:] - corners[:, :2]) >= 8).all()
    assert (corners >= 0).all()
    assert (corners[:, 2:] <= [width, height]).all()


def test_iou_of_masks():
    """Two empty masks agree."""
    left, all_of_it, nothing = np.eye(2, dtype=bool), np.ones((2, 2), bool), np.zeros((2, 2), bool)
    assert [iou(left, all_of_it), iou(left, nothing), iou(nothing, nothing)] == [0.5, 0, 1]


def test_a_report_is_printed_and_kept(tmp_path):
    """As a Markdown table, as JSON, and as one picture for each table that is drawn."""
    rows = [{"way": "one", "ratio": 1.0, "ms": 1234.5, "low": 0.9, "high": 1.2}]
    rows.append({"way": "another", "ratio": 2.5, "ms": None, "low": 2.4, "high": 2.6})
    bars = Table("Bars", rows, Bars("way", "ratio", "ratio", spread=("low", "high"), goal=2))
    lines = Table("Lines", [{"x": 1, "y": 2.0}, {"x": 4, "y": 3.0}], Lines("x", "y", ("x", "y"), logarithmic=True))
    report = Report("name", [bars, lines, Table("Neither", [])])
    text = str(report)
    assert "| one     |     1 | 1,234 |" in text
    assert "| another |   2.5 |     - |" in text
    report.write(tmp_path / "name.json")
    assert json.loads((tmp_path / "name.json").read_text())["tables"][0]["rows"] == rows
    assert [path.name for path in sorted(tmp_path.glob("*.png"))] == ["name_1.png", "name_2.png"]


class Least(Plan):
    """As little as a scenario can do."""

    def count(self, full: int, quick: int) -> int:
        """See Plan."""
        return max(1, min(full, quick) // 8)


class Here:
    """A loop in this process."""

    ready_s = 0.0

    def __init__(self, work: tuple[Work, str]) -> None:
        self._work, self.runtime = work

    def __call__(self, job):
        groups = np.split(job.boxes, len(job.boxes)) if job.separately else [job.boxes]
        masks = [_whole(mask) for mask in self._work(photograph(job.index, job.size), groups)]
        return Outcome(0.1, 2**20, np.stack(masks))


@contextmanager
def beside(work, *given):
    """Steps of a benchmark in this process."""
    steps = work(*given)
    next(steps)

    def step():
        next(steps)
        return Step(0.1, 0.2, 2**20, 2**20)

    yield step


@pytest.fixture(scope="module")
def plan(sam2_files):  # noqa: F811
    """Of a narrow SAM 2 whose server and loops are in this process: starting others is `startup`'s own business."""
    exact = (("engine", "eager"), ("precision", "fp32"))
    subject = Subject("narrow", "sam2", sam2_files.checkpoint, str(sam2_files.config), exact)
    with warnings.catch_warnings():
        warnings.filterwarnings(
            "ignore", r".*torch\.jit\.script.*"
        )  # which sam2 uses though newer PyTorch deprecates it
        works = {"official": official_work(subject), "raw": raw_work(subject)}
    with run_server(models=(subject.settings(),)) as server:
        running = Running(server.address, os.getpid(), 0.0, server.metrics_url)
        serving = contextmanager(lambda *_, **__: iter([running]))
        yield Least(subject, serving=serving, loop=lambda kind, _: nullcontext(Here(works[kind])))


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    ["naive", "stages", "callers", "objects", "megapixels", "prompts", "repeats", "startup", "memory", "following"],
)
def test_a_scenario_runs(name, plan, tmp_path, monkeypatch):
    """And its figures can be kept."""
    module = importlib.import_module(name)
    smaller = {
        "prompts": {"BOXES": boxes(3)},
        "objects": {"COUNTS": (1, 2), "SIZE": (300, 400)},
        "repeats": {"CALLERS": 3},
        "following": {
            "apart": beside,
            "small": lambda subject, *_: subject,  # It is made for little.
            "SMALL_SIDE": 1024,
            "SMALL_COUNTS": (1,),
            "COUNTS": (1,),
        },
    }
    for constant, value in smaller.get(name, {}).items():
        monkeypatch.setattr(module, constant, value)
    report = Report(name, list(module.measure(plan)))
    assert all(table.rows for table in report.tables)
    report.write(tmp_path / "report.json")
    rows = report.tables[0].rows
    if name == "naive":
        assert all(row["least IoU"] == 1 for row in rows)
    if name == "repeats":
        assert [row["encoder passes"] for row in rows] == [3, 1, 0, 1, 0]
    if name == "following":
        assert [(row["way"], row["objects"]) for row in rows] == [("predictor", 1), ("server", 1), ("loop", 1)]
    if name == "memory":
        assert rows[0]["requests"] == report.tables[1].rows[-1]["requests"] == 5


def test_many_servers_are_simulated():
    """A fixed time is shared out evenly; with the picture's own server most embeddings are there, else ever fewer."""
    load = simulation.Load(requests=2_000, callers=8, pictures=100, embeddings=64)
    fixed = simulation.Costs(encode_s=0.0, prompt_s=0.02, front_s=0.0, servers_per_front=16, wire_s=0.0)
    one, sixteen = (simulation.simulated("by picture", nodes, load, fixed) for nodes in (1, 16))
    assert (one.of_ideal, one.busiest) == (pytest.approx(1), 1)
    assert one.per_s == pytest.approx(50)
    assert sixteen.per_s > 0.9 * 16 * one.per_s
    real = simulation.Costs(encode_s=0.5, prompt_s=0.02, front_s=0.001, servers_per_front=16, wire_s=0.001)
    own, least = (simulation.simulated(choice, 16, load, real) for choice in simulation.CHOICES)
    assert own.hits > 0.8 > least.hits + 0.05
    assert own.encodes == round((1 - own.hits) * load.requests)
    assert own.per_s > 1.5 * least.per_s


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*torch.jit.script")  # Which sam2 uses.
def test_a_decoder_is_fitted(sam2_files, tmp_path, monkeypatch, capsys):  # noqa: F811
    """It learns, and the encoder stays as it was."""
    for constant, value in {"PHOTOGRAPHS": 1, "BOXES": 4, "STEPS": 30, "PROMPTS": 2, "RATE": 1e-2}.items():
        monkeypatch.setattr(fitting, constant, value)
    subject = Subject("narrow", "sam2", sam2_files.checkpoint, str(sam2_files.config))
    path = tmp_path / "fitted.pt"
    fitting._write(subject, path)
    before, after = (
        official("sam2", str(sam2_files.config), each).state_dict() for each in (sam2_files.checkpoint, path)
    )
    changed = {name.split(".")[0] for name, tensor in before.items() if not tensor.equal(after[name])}
    assert {"sam_mask_decoder", "sam_prompt_encoder"} <= changed
    assert "image_encoder" not in changed
    losses = [float(line.split("loss")[1]) for line in capsys.readouterr().err.split("\r") if "loss" in line]
    assert losses[-1] < 0.9 * losses[0]
