"""Files onto a disk that has no room for them: which disk, how much it has, how much is needed, and no part left."""

import json
from pathlib import Path

import pytest
from client_fixtures import cutout
from conftest import Photo, RunningServer
from cutout_client import Client
from cutout_common.disks import room, write
from disks import small_disk


def test_a_file_that_does_not_fit(tmp_path: Path):
    """The error names the disk, its room and the file's size; nothing is left of the file."""
    with small_disk(tmp_path / "disk", 1_000 * 1024) as disk:
        with pytest.raises(OSError, match=rf"2.0 MB are needed: the disk at {disk} has 1.0 MB free of 1.0 MB"):
            write(disk / "a.bin", bytes(2_000_000))
        assert list(disk.iterdir()) == []


def test_room_is_told_of_folders_that_do_not_exist_yet(tmp_path: Path):
    """The disk is that of the first folder above that is there."""
    assert room(tmp_path / "a" / "b" / "c.png").partition(" has ")[0] == room(tmp_path).partition(" has ")[0]


def test_results_that_do_not_fit(server: RunningServer, photos: dict[str, Photo], tmp_path: Path):
    """Every format of the client says so; the command line ends with 1 and says it of the picture."""
    picture = tmp_path / "coffee.jpg"
    picture.write_bytes(photos["coffee"].jpeg)
    with small_disk(tmp_path / "disk", 16 * 1024) as disk:
        (disk / "filler").write_bytes(bytes(16 * 1024))
        with Client(server.address) as client:
            result = client.segment_box(picture, (150.0, 40.0, 475.0, 335.0), mask_formats=["rle", "polygons"])
            for form in ("overlay", "png", "cutouts", "rle", "polygons", "coco", "npz"):
                with pytest.raises(OSError, match=f"MB are needed: the disk at {disk} has 0.0 MB free of 0.0 MB"):
                    result.save(disk, [form])
        done = cutout(server.address, "segment", picture, "--box", "150,40,475,335", "--out", disk, "--json", code=1)
        assert f"the disk at {disk} has" in json.loads(done.stdout.splitlines()[0])["error"]["message"]
        assert [path.name for path in disk.iterdir()] == ["filler"]
