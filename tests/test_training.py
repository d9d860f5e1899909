"""Training the built-in model's network: photographs prepared, a run resumed, weights that the server can use."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from cutout_server.models.builtin.network import WEIGHTS, Network
from waiting import PATIENCE_S

TRAINING = Path(__file__).parent.parent / "training"


def run(program: str, *arguments: object) -> str:
    command = [sys.executable, str(TRAINING / program), *map(str, arguments)]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=PATIENCE_S, env=os.environ | {"OMP_NUM_THREADS": "1"}
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def photographs(folder: Path, count: int) -> None:
    """Discs on noise, half of them in the split `val`."""
    random = np.random.default_rng(0)
    (folder / "images").mkdir()
    (folder / "masks").mkdir()
    rows = []
    for number in range(count):
        numbers = np.zeros((60, 80), np.uint8)
        cv2.circle(numbers, (20 + 4 * number % 40, 30), 15, 1, -1)
        numbers[:5] = 255
        picture = random.integers(0, 90, (60, 80, 3), np.uint8)
        picture[numbers == 1] += 120
        file, mask = f"images/{number}.png", f"masks/{number}.png"
        cv2.imwrite(str(folder / file), picture)
        cv2.imwrite(str(folder / mask), numbers)
        split = "val" if number % 2 else "train"
        rows.append({"file": file, "mask": mask, "set": "discs", "split": split, "tier": "A", "objects": [{"id": 1}]})
    rows.append(rows[0] | {"tier": "B"})
    rows.append(rows[0] | {"set": "ccp"})
    (folder / "index.jsonl").write_text("\n".join(map(json.dumps, rows)))


@pytest.mark.slow
def test_training_resumes_and_its_weights_can_be_served(tmp_path: Path):
    """Two steps, two more from the checkpoint, two of what judges masks, and an export that answers as PyTorch does.

    Rows without a licence for the picture, and the set that is left out, are not prepared.
    """
    photographs(tmp_path, 12)
    pictures, out, weights = tmp_path / "pictures", tmp_path / "out", tmp_path / "network.onnx"
    assert run("prepare.py", "--photographs", tmp_path, "--out", pictures).startswith("12 pictures, 12 objects")
    common = "--pictures", pictures, "--out", out, "--size", 32, "--device", "cpu"
    run("train.py", *common, "--decay", 2)
    assert not (out / "checkpoint.pt").exists()  # The end of training leaves what it began from.
    (out / "finished.pt").rename(out / "checkpoint.pt")
    assert "step 4 " in run("train.py", *common, "--decay", 2)
    judged = "--weights", out / "finished.pt", "--out", out / "judged.pt", "--steps", 2, "--size", 32
    run("judge.py", "--pictures", pictures, *judged)
    before, after = (torch.load(out / name, weights_only=True)["mean"] for name in ("finished.pt", "judged.pt"))
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {"quality.0.weight", "quality.0.bias", "quality.2.weight", "quality.2.bias"}
    told = re.search(
        r"logits differ by ([\d.]+) at most, masks by ([\d.]+)%",
        run("export.py", "--weights", out / "judged.pt", "--out", weights),
    )
    assert told
    assert float(told[1]) < 0.05
    assert float(told[2]) < 0.1
    logits, quality = Network(weights)(np.zeros((2, 7, 64, 96), np.float32))
    assert logits.shape == (2, 3, 32, 48)
    assert ((quality > 0) & (quality < 1)).all()
    further = "--pictures", pictures, "--out", tmp_path / "further", "--size", 32, "--device", "cpu"
    assert "step 2 " in run("train.py", *further, "--decay", 2, "--weights", weights, "--rate", 1e-9)


def test_photographs_set_aside_for_judging_are_left_out(tmp_path: Path):
    """A photograph whose hashes, or whose number in COCO, are listed is not prepared."""
    photographs(tmp_path, 4)
    sys.path.insert(0, str(TRAINING))
    try:
        import imagehash  # noqa: PLC0415
        from excluded import Excluded  # noqa: PLC0415
        from PIL import Image  # noqa: PLC0415
    finally:
        sys.path.remove(str(TRAINING))
    picture = np.asarray(Image.open(tmp_path / "images" / "0.png").convert("RGB"))
    hashes = [np.packbits(made(Image.fromarray(picture)).hash) for made in (imagehash.phash, imagehash.dhash)]
    assert not Excluded(tmp_path).holds(picture, {})
    np.savez(tmp_path / "excluded_hashes.npz", hashes=np.stack(hashes)[None])
    (tmp_path / "excluded_coco_ids.json").write_text("[42]")
    excluded = Excluded(tmp_path)
    assert excluded.holds(picture, {})
    assert not excluded.holds(255 - picture[:, ::-1], {})
    assert excluded.holds(255 - picture[:, ::-1], {"orig": "train2017/000000000042.jpg"})


def test_weights_that_are_served_can_be_trained_further():
    """The network of an exported file answers as the file does, and so it does with norms that measure again."""
    sys.path.insert(0, str(TRAINING))
    try:
        from export import difference  # noqa: PLC0415
        from weights import of_onnx, restore  # noqa: PLC0415
    finally:
        sys.path.remove(str(TRAINING))
    network = of_onnx(WEIGHTS)
    assert difference(network, WEIGHTS)[0] < 1e-3
    crops = torch.rand(8, 7, 64, 64)
    with torch.no_grad():
        before = network(crops)
        restore(network, crops)
        for answer in (network.eval()(crops), network.train()(crops)):  # By what was measured, and by these crops.
            assert all(torch.allclose(*pair, atol=1e-2) for pair in zip(before, answer, strict=True))
