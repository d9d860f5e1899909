"""`make bench`: runs every benchmark, one after the other, and leaves their figures in benchmarks/out/*.json."""

import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
BENCHMARKS = ("builtin_quality", "health_under_load", "overhead")


def main() -> int:
    """Exit status 1 when one failed; the others are run all the same."""
    out = HERE / "out"
    out.mkdir(exist_ok=True)
    failed = []
    for name in BENCHMARKS:
        print(f"\n== {name}\n", flush=True)
        command = [sys.executable, str(HERE / f"{name}.py"), "--json", str(out / f"{name}.json")]
        if subprocess.run(command, check=False).returncode:
            failed.append(name)
    if failed:
        print(f"failed: {', '.join(failed)}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
