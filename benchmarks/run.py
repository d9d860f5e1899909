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
# In this order: what the later ones mean is easier to see after the earlier ones. The third column is what each needs
# beyond --quick and --json; those that know no --quick are short, or left out of a glance.
BENCHMARKS: tuple[tuple[str, bool, tuple[str, ...]], ...] = (
    ("naive", True, ()),
    ("engines", True, ()),
    ("grounding_dino", True, ()),
    ("stages", True, ()),
    ("overhead", True, ()),
    ("callers", True, ()),
    ("objects", True, ()),
    ("masks", True, ()),
    ("megapixels", True, ()),
    ("pictures", True, ()),
    ("prompts", True, ()),
    ("repeats", True, ()),
    ("startup", True, ()),
    ("memory", True, ()),
    ("peer", True, ()),
    ("health_under_load", False, ("--seconds", "5")),
    ("builtin_quality", False, ()),
)


def main() -> int:
    """Exit status 1 when one failed; the others are run all the same."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a glance at everything, within five minutes")
    parser.add_argument("--only", nargs="+", choices=[name for name, _, _ in BENCHMARKS], help="these alone")
    args = parser.parse_args()
    OUT.mkdir(exist_ok=True)
    failed, took = [], []
    with (OUT / "summary.md").open("w") as summary:
        for name, knows_quick, further in BENCHMARKS:
            if (args.only and name not in args.only) or (args.quick and not knows_quick and not args.only):
                continue
            print(f"\n== {name}\n", flush=True)
            command = [sys.executable, str(HERE / f"{name}.py"), "--json", str(OUT / f"{name}.json"), *further]
            command += ["--quick"] if args.quick and knows_quick else []
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
