"""Copies Google's contracts from the installed googleapis-common-protos, for buf to read."""

import shutil
import sys
from importlib import resources
from pathlib import Path


def stage(target: Path) -> None:
    """Writes google/{api,rpc}/*.proto under `target`."""
    root = Path(str(resources.files("google.api").joinpath("annotations.proto"))).parents[2]
    for file in (*root.glob("google/api/*.proto"), *root.glob("google/rpc/*.proto")):
        copy = target / file.relative_to(root)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, copy)


if __name__ == "__main__":
    stage(Path(sys.argv[1]))
