"""What words cost the built-in model: the server's CPU seconds for a picture that is new, and when it is asked again.

    python benchmarks/words.py [--rounds N] [--json FILE]

The photographs are scikit-image's, as JPEG files over gRPC; each round sends them in pixels of their own.
"""

import argparse
import statistics
from pathlib import Path

import numpy as np
import psutil
import skimage.data
from cutout_client import Client
from harness.photographs import jpeg
from harness.report import Report, Row, Table
from harness.servers import serving_builtin

ASKED = (("chelsea", "cat"), ("astronaut", "face"), ("astronaut", "person"), ("coffee", "object"), ("coffee", "red"))


def main() -> None:
    """Measures and prints a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    with serving_builtin() as server, Client(server.address) as client:
        process = psutil.Process(server.pid)
        rows = [measure(client, process, each, args.rounds) for each in range(len(ASKED))]
    title = "Words, the built-in model: CPU seconds of the server for one request"
    report = Report("words", [Table(title, rows)], {"rounds": args.rounds})
    print(report)
    if args.json:
        report.write(args.json)


def measure(client: Client, process: psutil.Process, asked: int, rounds: int) -> Row:
    """Medians over the rounds, after one that warms up."""
    name, word = ASKED[asked]
    pixels: np.ndarray = getattr(skimage.data, name)()
    new, again, found = [], [], 0
    for number in range(rounds + 1):
        file = jpeg(_unlike(pixels, asked, number))
        for taken in (new, again):
            before = process.cpu_times()
            found = len(client.segment_text(file, word))
            after = process.cpu_times()
            taken.append(after.user + after.system - before.user - before.system)
    height, width = pixels.shape[:2]
    return {
        "photograph": f"{name}, {width} x {height}",
        "word": word,
        "found": found,
        "new picture": statistics.median(new[1:]),
        "again": statistics.median(again[1:]),
    }


def _unlike(pixels: np.ndarray, *numbers: int) -> np.ndarray:
    """Another picture for every word and round: a block of JPEG in the first row is of another grey for each number."""
    changed = pixels.copy()
    for place, number in enumerate(numbers):
        changed[:8, 8 * place : 8 * place + 8] = 40 * number % 256
    return changed


if __name__ == "__main__":
    main()
