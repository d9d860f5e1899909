"""`cutout segment` on folders: what it looks at, what it goes on after, and what it leaves behind."""

import io
import json
import os
from dataclasses import dataclass
from pathlib import Path

import grpc
import PIL.Image
import PIL.ImageDraw
import pytest
from conftest import RunningServer, run_server
from cutout_client import Client, Segmentation
from cutout_client.cli import connection, main, parser
from cutout_client.connection import Connection
from cutout_client.errors import CallCancelledError
from cutout_client.saving import FORMATS
from cutout_common.status import ErrorDetails
from waiting import PATIENCE_S

DISC = "15,15,85,95"


def a_disc() -> PIL.Image.Image:
    image = PIL.Image.new("RGB", (160, 120), (30, 60, 40))
    PIL.ImageDraw.Draw(image).ellipse((20, 20, 80, 90), fill=(220, 180, 40))
    return image


@pytest.fixture
def disc(tmp_path: Path) -> Path:
    path = tmp_path / "pictures" / "disc.jpg"
    path.parent.mkdir()
    a_disc().save(path)
    return path


@dataclass(frozen=True)
class Shelf:
    """A folder whose pictures are of every odd kind.

    Attributes:
        path: The folder.
        fine: Names of the pictures with which nothing is wrong.
        odd: Of those with which something is.
    """

    path: Path
    fine: tuple[str, ...]
    odd: tuple[str, ...]


@pytest.fixture
def shelf(tmp_path: Path) -> Shelf:
    folder = tmp_path / "shelf"
    folder.mkdir()
    image = a_disc()
    fine = ("a.png", os.fsdecode(b"caf\xe9.png"), "undrawn.png", "z.png")
    for name in fine:
        image.save(folder / name)
    whole = io.BytesIO()
    image.save(whole, "PNG")
    (folder / "cut.png").write_bytes(whole.getvalue()[:100])
    (folder / "empty.png").write_bytes(b"")
    (folder / "folder.png").mkdir()
    (folder / "folder.png" / "._a.png").write_bytes(b"what macOS knows about it")
    (folder / "gone.png").symlink_to(folder / "nowhere.png")
    (folder / ".hidden.png").write_bytes(whole.getvalue())
    (folder / ".thumbnails").mkdir()
    (folder / ".thumbnails" / "a.png").write_bytes(whole.getvalue())
    return Shelf(folder, fine, ("cut.png", "empty.png", "gone.png"))


def test_a_run_goes_on_whatever_becomes_of_a_picture(
    server: RunningServer, shelf: Shelf, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch
) -> None:
    """Files that cannot be read, drawn on or shown fail alone: all others are done, and the failures come last."""
    overlay = FORMATS["overlay"]

    def bomb(result: Segmentation, folder: Path, name: str) -> list[Path]:
        if name == "undrawn":
            raise PIL.Image.DecompressionBombError("too many pixels to draw on")
        return overlay(result, folder, name)

    monkeypatch.setitem(FORMATS, "overlay", bomb)
    out = tmp_path / "out"
    flags = ["--box", DISC, "--out", str(out), "--server", server.address, "--format", "overlay,png,coco"]
    assert main(["segment", str(shelf.path), *flags]) == 1
    printed = capsys.readouterr()
    errors = printed.err.splitlines()
    failed = [*shelf.odd, "undrawn.png"]
    assert [error.split(": ")[2] for error in errors] == failed
    assert errors[-1].endswith("overlay was not written: DecompressionBombError: too many pixels to draw on")
    assert "3 of 7 pictures done" in printed.out
    assert "caf\\udce9.png" in printed.out
    names = [image["file_name"] for image in json.loads((out / "coco.json").read_text())["images"]]
    assert names == sorted(shelf.fine)
    masks = {path.name for path in out.glob("*.mask.png")}
    assert masks == {f"{name.removesuffix('.png')}.000.mask.png" for name in shelf.fine}


def test_the_folder_of_the_answers_is_no_picture(server: RunningServer, shelf: Shelf, capsys) -> None:
    """A run into a folder inside of the pictures' finds the same pictures again."""
    out = shelf.path / "out"
    flags = ["--box", DISC, "--out", str(out), "--server", server.address, "--json"]
    for _ in range(2):
        main(["segment", str(shelf.path), *flags])
        told = [json.loads(line)["picture"] for line in capsys.readouterr().out.splitlines()]
        assert [Path(each).name for each in told] == sorted([*shelf.fine, *shelf.odd])


def test_as_many_pictures_at_once_as_wanted(tmp_path: Path) -> None:
    """--jobs is not bounded by what a client has in flight by default."""
    flags = ["segment", str(tmp_path), "--everything", "--server", "127.0.0.1:1"]
    usual = Connection.max_in_flight
    for jobs, expected in ((4, usual), (3 * usual, 3 * usual)):
        args = parser().parse_args([*flags, "--jobs", str(jobs)])
        with connection.connect(args) as client:
            assert client._calls.connection.max_in_flight == expected


def test_no_server_is_said_once(shelf: Shelf, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """When nobody listens, the command ends with one message instead of one for each picture."""
    flags = ["--box", DISC, "--out", str(tmp_path / "out"), "--server", "127.0.0.1:1", "--retries", "0"]
    assert main(["segment", str(shelf.path), *flags]) == 1
    assert len(capsys.readouterr().err.splitlines()) == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("cut_short", [False, True])
def test_a_server_that_goes_away_ends_the_run(
    shelf: Shelf, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch, cut_short: bool
) -> None:
    """What was answered before is kept, one picture says why, and the others are counted.

    Also where gRPC tells CANCELLED alone, as it does of a call that comes in the instant in which its server ends.
    """
    asked: list[str] = []
    ask = Client.segment_box
    with run_server() as server:

        def stopping(client: Client, picture: Path, *args: object, **options: object) -> Segmentation:
            asked.append(picture.name)
            if picture.name == "undrawn.png":
                server.stop().result(PATIENCE_S)
                if cut_short:
                    raise CallCancelledError(grpc.StatusCode.CANCELLED, "CANCELLED", ErrorDetails())
            return ask(client, picture, *args, **options)

        monkeypatch.setattr(Client, "segment_box", stopping)
        out = tmp_path / "out"
        flags = ["--box", DISC, "--out", str(out), "--server", server.address, "--format", "coco", "--jobs", "1"]
        pictures = [str(shelf.path / name) for name in ("a.png", "undrawn.png", "z.png", "z.png", "z.png")]
        assert main(["segment", *pictures, *flags, "--retries", "0"]) == 1
    errors = capsys.readouterr().err.splitlines()
    assert errors[0].startswith("cutout: error: undrawn.png: ")
    assert errors[1:] == ["cutout: error: 3 more pictures were not asked about: they would have failed alike"]
    assert [each["file_name"] for each in json.loads((out / "coco.json").read_text())["images"]] == ["a.png"]


def test_masks_of_the_run_before_do_not_stay(server: RunningServer, disc: Path, tmp_path: Path) -> None:
    """What was made of another question goes, whatever its form; what anybody else wrote or changed stays."""
    wide = ["--box", DISC, "100,10,150,60", "90,70,150,110", "--format", "png,cutouts,overlay"]
    flags = ["--out", str(tmp_path), "--server", server.address]
    assert main(["segment", str(disc), *wide, *flags]) == 0
    ours = tmp_path / "disc.001.mask.png"
    foreign = tmp_path / "disc.003.mask.png"
    assert ours.exists()
    with PIL.Image.open(ours) as mask:
        mask.save(foreign)
    other = tmp_path / "disc.jpg.000.mask.png"
    other.write_bytes(ours.read_bytes())
    with PIL.Image.open(tmp_path / "disc.002.mask.png") as mask:
        changed = mask.copy()
    changed.save(tmp_path / "disc.002.mask.png")
    assert main(["segment", str(disc), "--box", DISC, "--format", "png", *flags]) == 0
    assert sorted(path.name for path in tmp_path.glob("disc*.mask.png")) == [
        "disc.000.mask.png",
        "disc.002.mask.png",
        "disc.003.mask.png",
        "disc.jpg.000.mask.png",
    ]
    assert not list(tmp_path.glob("disc.*.cutout.png"))
    assert not (tmp_path / "disc.overlay.png").exists()
