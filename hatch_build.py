"""Build hook: generates the Python stubs and the descriptor set from protos/, so that neither is ever committed.

It writes the commit into wheels and sdists, too: they have no repository to ask.
"""

import runpy
from importlib import resources
from pathlib import Path
from typing import Any

from grpc_tools import protoc
from hatchling.builders.hooks.plugin.interface import BuildHookInterface

PROTOS = Path(__file__).parent / "protos"
COMMIT = Path("common/cutout_common/commit.py")


def generate(protos: Path = PROTOS) -> None:
    """Writes `*_pb2.py`, `*_pb2.pyi`, `*_pb2_grpc.py` and `descriptors.binpb` (with the comments) beside the contracts.

    Raises:
        RuntimeError: protoc refused the contracts; its own message is on stderr.
    """
    # google/api and google/rpc come, contracts and modules alike, from googleapis-common-protos.
    google_api = Path(str(resources.files("google.api").joinpath("annotations.proto")))
    includes = [protos, google_api.parents[2], Path(str(resources.files("grpc_tools"))) / "_proto"]
    files = sorted(protos.glob("cutout/v1/*.proto"))
    code: int = protoc.main(
        [
            "protoc",
            *(f"-I{include}" for include in includes),
            f"--python_out={protos}",
            f"--pyi_out={protos}",
            f"--grpc_python_out={protos}",
            f"--descriptor_set_out={protos / 'cutout/v1/descriptors.binpb'}",
            "--include_imports",
            "--include_source_info",
            *map(str, files),
        ]
    )
    if code != 0:
        raise RuntimeError(f"protoc failed with exit code {code}")


class StubsHook(BuildHookInterface):  # type: ignore[type-arg]
    """Runs before every wheel, editable install and sdist."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Generates the stubs; `artifacts` in pyproject.toml takes them along."""
        generate(Path(self.root) / "protos")
        if version != "editable":  # an editable install asks git whenever it runs
            build_data["force_include"] |= self._commit()

    def _commit(self) -> dict[str, str]:
        """The file with the commit, and where it goes; nothing where the sources have one already, as an sdist has."""
        program = runpy.run_path(str(Path(self.root) / COMMIT))
        written: Path = program["WRITTEN"]
        if written.exists():
            return {}
        made = Path(self.root) / "build" / written.name
        made.parent.mkdir(exist_ok=True)
        made.write_text(program["commit"]() + "\n", encoding="ascii")
        folder = COMMIT.parent if self.target_name == "sdist" else COMMIT.parent.name
        return {str(made): f"{folder}/{written.name}"}


if __name__ == "__main__":
    generate()
