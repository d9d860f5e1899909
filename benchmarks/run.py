"""`make bench`: every benchmark, one after the other, each in a process of its own; figures in benchmarks/out/.

    python benchmarks/run.py [--quick] [--only NAME ...]

Beside every NAME.json lie the plots of its tables, and out/summary.md holds all that was printed.
"""

import argparse
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).parent
OUT = HERE / "out"
# In this order: what the later ones mean is easier to see after the earlier ones. A name, the file without its ending,
# and what it is given beside --json in full and at a glance; None is left out of a glance.
GLANCE = ("--quick",)
BENCHMARKS: dict[str, tuple[str, tuple[str, ...], tuple[str, ...] | None]] = {
    "naive": ("naive", (), GLANCE),
    "engines_sam2_tiny": ("engines", (), GLANCE),
    "engines_sam2_large": ("engines", ("--model", "sam2.1-large"), None),
    "engines_sam_vit_b": ("engines", ("--model", "sam-vit-b"), None),
    "engines_fitted": ("engines", ("--fitted",), None),
    "grounding_dino": ("grounding_dino", (), ("--rounds", "1")),
    "stages": ("stages", (), GLANCE),
    "overhead": ("overhead", (), ("--requests", "60")),
    "callers": ("callers", (), GLANCE),
    "decoder": ("decoder", ("--prompts", "1", "16", "64", "--rounds", "3"), None),
    "objects": ("objects", (), GLANCE),
    "objects_fitted": ("objects", ("--fitted",), None),
    "masks": ("masks", (), GLANCE),
    "megapixels": ("megapixels", (), GLANCE),
    "pictures": ("pictures", (), GLANCE),
    "decoding": ("decoding", (), GLANCE),
    "prompts": ("prompts", (), GLANCE),
    "repeats": ("repeats", (), GLANCE),
    "startup": ("startup", (), GLANCE),
    "memory": ("memory", (), GLANCE),
    "peer": ("peer", (), GLANCE),
    "neighbour": ("neighbour", (), GLANCE),
    "health_under_load": ("health_under_load", ("--seconds", "5"), None),
    "words": ("words", (), ("--rounds", "1")),
    "builtin_speed": ("builtin_speed", (), ("--rounds", "1")),
    "distribution": ("distribution", (), None),
    "builtin_quality": ("builtin_quality", (), None),
}


def main() -> int:
    """Exit status 1 when one failed; the others are run all the same."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a glance at everything, within five minutes")
    parser.add_argument("--only", nargs="+", choices=list(BENCHMARKS), help="these alone")
    args = parser.parse_args()
    OUT.mkdir(exist_ok=True)
    failed, took = [], []
    with (OUT / "summary.md").open("w") as summary:
        for name, (file, full, glance) in BENCHMARKS.items():
            further = glance if args.quick else full
            if further is None or (args.only and name not in args.only):
                continue
            print(f"\n== {name}\n", flush=True)
            command = [sys.executable, str(HERE / f"{file}.py"), "--json", str(OUT / f"{name}.json"), *further]
            started = time.monotonic()
            process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
            assert process.stdout is not None
            summary.write(f"## {name}\n\n")
            for line in process.stdout:
                print(line, end="", flush=True)
                summary.write(line)
            summary.write("\n")
            took.append(f"{name} {time.monotonic() - started:.0f} s")
            if process.wait():
                failed.append(name)
    print(f"\ntook: {', '.join(took)}\nfigures and plots: {OUT}")
    if failed:
        print(f"failed: {', '.join(failed)}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
