"""`cutout segment` on a folder, interrupted and begun again: nothing is lost, and nothing is asked twice."""

import io
import json
import re
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import PIL.Image
import PIL.ImageDraw
import pytest
from conftest import run_server
from cutout_client.cli import main
from cutout_client.cli.folders import Job
from cutout_client.cli.outcomes import Outcome
from cutout_client.cli.progress import ProgressLine
from cutout_client.cli.stopping import Stop
from cutout_client.cli.tally import Tally
from cutout_server.images import pictures
from cutout_server.services.segmentation import SegmentationServicer
from rich.console import Console
from waiting import PATIENCE_S, until, wait_until

from tools import ctrl_c

PICTURES = 24
BOX = "4,4,30,28"


@dataclass
class Door:
    """Before the server: counts who comes, and lets so many in.

    Attributes:
        address: Of the server.
        asked: The pictures that came, by their files' bytes.
        room: How many get an answer; further ones wait.
    """

    address: str = ""
    asked: Counter[bytes] = field(default_factory=Counter)
    room: float = float("inf")

    @property
    def count(self) -> int:
        return self.asked.total()


@pytest.fixture(scope="module")
def open_door() -> Iterator[Door]:
    door = Door()
    answer = SegmentationServicer.SegmentByBox

    async def segment_by_box(servicer, request, context):
        door.asked[request.image.content] += 1
        place = door.count
        await until(lambda: place <= door.room)
        return await answer(servicer, request, context)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(SegmentationServicer, "SegmentByBox", segment_by_box)
        with run_server() as running:
            door.address = running.address
            yield door
            door.room = float("inf")


@pytest.fixture
def door(open_door: Door) -> Door:
    open_door.asked.clear()
    open_door.room = float("inf")
    return open_door


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Dozens of small pictures, no two alike."""
    for index in range(PICTURES):
        image = PIL.Image.new("RGB", (48, 32), (30, 60, index * 10))
        PIL.ImageDraw.Draw(image).ellipse((6, 6, 28, 26), fill=(220, 180, 40))
        path = tmp_path / "pictures" / f"{index % 3}" / f"{index:02}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        image.save(path)
    return tmp_path / "pictures"


def start(door: Door, folder: Path, out: Path) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "cutout_client", "segment", str(folder), "--box", BOX, "--out", str(out)]
    flags = ["--format", "png,coco", "--jobs", "2", "--server", door.address]
    return subprocess.Popen([*command, *flags], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def titles(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.png"))


def in_coco(out: Path) -> list[str]:
    return [each["file_name"] for each in json.loads((out / "coco.json").read_text())["images"]]


def masked(out: Path) -> set[str]:
    return {path.relative_to(out).as_posix().replace(".000.mask", "") for path in out.rglob("*.mask.png")}


def test_interrupted_and_begun_again(door: Door, folder: Path, tmp_path: Path) -> None:
    """Ctrl-C lets what is under way end and keeps what is done, COCO included; the same command does the rest alone."""
    out = tmp_path / "out"
    door.room = 5
    with start(door, folder, out) as run:
        wait_until(lambda: door.count == 7)
        run.send_signal(signal.SIGINT)
        assert "stopping when what is under way is done" in run.stderr.readline()
        door.room = PICTURES
        _, errors = run.communicate(timeout=PATIENCE_S)
    assert run.returncode == 130
    assert errors == "cutout: warning: 17 more pictures were not asked about: the same command goes on from here\n"
    assert door.count == 7
    assert in_coco(out) == titles(folder)[:7]
    assert masked(out) == set(in_coco(out))
    with start(door, folder, out) as run:
        printed, errors = run.communicate(timeout=PATIENCE_S)
    assert (run.returncode, errors) == (0, "")
    assert "24 of 24 pictures done (7 of them before; --again asks anew)" in printed
    assert set(door.asked.values()) == {1}
    assert door.count == PICTURES
    assert in_coco(out) == titles(folder)
    assert masked(out) == set(titles(folder))


def test_two_signals_end_a_run_at_once(door: Door, folder: Path, tmp_path: Path) -> None:
    """The second signal waits for no answer; what was done is kept, and what an earlier run has done, too."""
    out = tmp_path / "out"
    common = ["--box", BOX, "--out", str(out), "--format", "png,coco", "--server", door.address, "--quiet"]
    assert main(["segment", str(folder), *common]) == 0
    before = titles(folder)
    for index in range(9):
        PIL.Image.new("RGB", (48, 32), (index, 0, 0)).save(folder / f"+{index}.png")
    new = [name for name in titles(folder) if name not in before]
    door.room = PICTURES + 3
    with start(door, folder, out) as run:
        wait_until(lambda: door.count == PICTURES + 5)
        run.send_signal(signal.SIGTERM)
        assert "stopping" in run.stderr.readline()
        run.send_signal(signal.SIGINT)
        _, errors = run.communicate(timeout=PATIENCE_S)
    assert run.returncode == 130
    assert errors == "cutout: warning: 6 more pictures were not asked about: the same command goes on from here\n"
    done = [name for name in new if name in in_coco(out)]  # of those that were under way, whichever came first
    assert len(done) == 3
    assert in_coco(out) == [*done, *before]


def test_a_late_signal_costs_no_list(
    door: Door, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Ctrl-C that comes when all is written still leaves the list of what failed, and how much was done."""
    (folder / "no.png").write_bytes(b"no picture")
    tell = Tally.print_failures

    def interrupted(tally: Tally, stop: Stop) -> None:
        ctrl_c()
        tell(tally, stop)

    monkeypatch.setattr(Tally, "print_failures", interrupted)
    command = ["segment", str(folder), "--box", BOX, "--out", str(tmp_path / "out"), "--server", door.address]
    assert main(command) == 130
    printed, errors = capsys.readouterr()
    assert "cutout: error: no.png: image.content: unknown format" in errors
    assert f"{PICTURES} of {PICTURES + 1} pictures done" in printed


@dataclass(frozen=True)
class Command:
    """`cutout segment` in this process."""

    door: Door
    folder: Path
    out: Path

    def __call__(self, *flags: str, box: str = BOX, form: str = "png") -> int:
        """How many pictures the server was asked about."""
        before = self.door.count
        pictures = str(self.folder / "0")
        common = ["--out", str(self.out), "--server", self.door.address, "--quiet", "--format", form]
        assert main(["segment", pictures, "--box", box, *common, *flags]) == 0
        return self.door.count - before

    def files(self) -> set[str]:
        """The endings of what there is about the first picture."""
        return {path.name.removeprefix("00.") for path in self.out.glob("00.*")}


def test_only_what_changed_is_asked_again(door: Door, folder: Path, tmp_path: Path) -> None:
    """An answer serves until its picture or the question changes; files of other forms are made of it."""
    command = Command(door, folder, tmp_path / "out")
    assert command() == 8
    assert command() == 0
    assert command(form="overlay,cutouts") == 0
    assert command.files() == {"000.mask.png", "overlay.png", "000.cutout.png"}
    (command.out / "00.000.mask.png").unlink()
    changed = command.out / "03.000.mask.png"
    changed.write_bytes(b"by hand")
    assert command() == 0
    assert command.files() == {"000.mask.png", "overlay.png", "000.cutout.png"}
    assert changed.read_bytes() == b"by hand"
    PIL.Image.new("RGB", (20, 20)).save(folder / "0" / "06.png")
    assert command() == 1
    kept = command.out / ".cutout" / "12.answer"
    kept.write_bytes(kept.read_bytes()[:-3])
    assert command() == 1
    assert command(form="polygons") == 8  # which the answers do not have
    assert command("--again") == 8
    assert command(box="1,1,40,30") == 8
    assert command.files() == {"000.mask.png"}  # nothing of the question before


def test_a_dataset_of_another_question_goes(door: Door, folder: Path, tmp_path: Path) -> None:
    """coco.json never stays beside masks that it does not describe."""
    command = Command(door, folder, tmp_path / "out")
    command(form="png,coco")
    command()
    assert (command.out / "coco.json").exists()
    command(box="1,1,40,30")
    assert not (command.out / "coco.json").exists()


@pytest.mark.parametrize(
    ("flags", "failed", "reason"),
    [
        (["--most-failures", "2"], 3, "more have failed than --most-failures allows"),
        (["--most-failures", "20%"], 2, "more have failed than --most-failures allows"),
        (["--segmenter", "no-such-model"], 1, "they would have failed alike"),
    ],
)
def test_a_run_that_cannot_succeed_ends(
    door: Door, tmp_path: Path, flags: list[str], failed: int, reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """As many failures as allowed, or one that says of all pictures that they fail, end a run."""
    for index in range(8):
        (tmp_path / f"{index}.png").write_bytes(b"no picture")
    common = ["--box", BOX, "--out", str(tmp_path / "out"), "--server", door.address, "--jobs", "1", "--quiet"]
    assert main(["segment", str(tmp_path), *common, *flags]) == 1
    *failures, last = capsys.readouterr().err.splitlines()
    assert len(failures) == door.count == failed
    assert last == f"cutout: error: {8 - failed} more pictures were not asked about: {reason}"


def test_a_run_leaves_signals_as_they_were(door: Door, folder: Path, tmp_path: Path) -> None:
    """Whoever calls the command line from Python keeps its own handlers."""
    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    Command(door, folder, tmp_path / "out")()
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == handlers


def test_a_picture_on_standard_input(door: Door, folder: Path, tmp_path: Path, monkeypatch, capsys) -> None:
    """- is the picture on standard input; without one the command says what - is."""
    given = io.TextIOWrapper(io.BytesIO((folder / "0" / "00.png").read_bytes()))
    monkeypatch.setattr(sys, "stdin", given)
    flags = ["--box", BOX, "--out", str(tmp_path / "out"), "--server", door.address, "--format", "overlay,coco"]
    assert main(["segment", "-", *flags, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["picture"] == "-"
    assert (tmp_path / "out" / "stdin.overlay.png").exists()
    assert in_coco(tmp_path / "out") == ["stdin"]
    assert main(["segment", "-", *flags]) == 1
    assert "- is a picture on standard input, where there is none" in capsys.readouterr().err


def test_a_picture_at_an_address(folder: Path, tmp_path: Path, monkeypatch, capsys: pytest.CaptureFixture[str]) -> None:
    """The server fetches it, and sends it along to be drawn on; other kinds of address are refused with a word."""

    async def fetched(address: str, _policy: object) -> bytes:
        assert address == "https://example.org/deep/disc.png?size=1"
        return (folder / "0" / "00.png").read_bytes()

    monkeypatch.setattr(pictures, "fetch", fetched)
    with run_server(allow_uris=True) as server:
        flags = ["--box", BOX, "--out", str(tmp_path / "out"), "--server", server.address]
        given = "https://example.org/deep/disc.png?size=1"
        assert main(["segment", given, *flags, "--format", "overlay,cutouts,coco"]) == 0
    assert {path.name for path in (tmp_path / "out").glob("disc.*")} == {"disc.000.cutout.png", "disc.overlay.png"}
    assert in_coco(tmp_path / "out") == ["disc.png"]
    with pytest.raises(SystemExit):
        main(["segment", "ftp://example.org/disc.png", *flags])
    assert "of addresses, only http:// and https:// are fetched" in capsys.readouterr().err


def test_progress_says_how_far_a_run_is() -> None:
    """On a terminal one line has the picture begun last, the failures, the rate and the time left."""
    shown = io.StringIO()
    terminal = Console(file=shown, force_terminal=True, width=100, color_system=None)
    first, second = (Job(Path(name), f"deep/{name}", Path(), name) for name in ("a.png", "b.png"))
    with ProgressLine("Segmenting", 12, terminal, disable=False) as line:
        for outcome in (Outcome(first, kept=True), Outcome(first, error=ValueError("no")), Outcome(first)):
            line.begins(first)
            line.ends(outcome)
        line.begins(second)
    last = shown.getvalue()
    assert "Segmenting" in last
    assert re.search(r"3/12 \d.*(/s|s each), .* left 1 failed deep/b.png", last)
