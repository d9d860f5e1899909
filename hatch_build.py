"""Build hook: generates the Python stubs and the descriptor set from protos/, so that neither is ever committed."""

from importlib import resources
from pathlib import Path
from typing import Any

from grpc_tools import protoc
from hatchling.builders.hooks.plugin.interface import BuildHookInterface

PROTOS = Path(__file__).parent / "protos"


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
        del version, build_data
        generate(Path(self.root) / "protos")


if __name__ == "__main__":
    generate()
