"""The contracts for other languages: where stubs of each go, and all that a compiler needs, in one folder."""

import subprocess
import sys
import zipfile
from pathlib import Path

from cutout_client import cli
from cutout_gateway.descriptors import Contract
from google.protobuf.descriptor_pb2 import FileOptions


def test_stubs_keep_their_places_in_every_language():
    """Where buf's managed mode gives one it is the same; a change would move what others have generated."""
    files = [file for file in Contract.load().descriptor_set.file if file.package == "cutout.v1"]
    assert len(files) > 5
    for file in files:
        name = file.name.removeprefix("cutout/v1/").removesuffix(".proto")
        assert file.options == FileOptions(
            csharp_namespace="Cutout.V1",
            go_package="cutout/v1;cutoutv1",
            java_multiple_files=True,
            java_outer_classname=f"{name.title().replace('_', '')}Proto",
            java_package="com.cutout.v1",
            objc_class_prefix="CXX",
            php_namespace="Cutout\\V1",
            ruby_package="Cutout::V1",
            swift_prefix="Cutout_V1_",
        )


def test_a_compiler_needs_nothing_but_the_folder(tmp_path: Path):
    """`cutout protos` writes all that the contracts import, and errors' details; protoc reads it in a place apart."""
    folder, archive = tmp_path / "contracts", tmp_path / "contracts.zip"
    assert cli.main(["protos", "--out", str(folder)]) == 0
    assert cli.main(["protos", "--out", str(archive)]) == 0
    written = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert {"google/api/annotations.proto", "google/rpc/error_details.proto", "cutout/v1/mask.proto"} < written
    with zipfile.ZipFile(archive) as packed:
        assert {name: packed.read(name) for name in packed.namelist()} == {
            name: (folder / name).read_bytes() for name in written
        }
    made = tmp_path / "made"
    made.mkdir()
    # `python -m grpc_tools.protoc` would add Google's contracts that are installed; protoc's own files it has to find.
    program = "import sys, grpc_tools; from grpc_tools import protoc; from pathlib import Path;"
    program += "sys.exit(protoc.main([*sys.argv, f'-I{Path(grpc_tools.__file__).parent}/_proto']))"
    command = [sys.executable, "-c", program, f"-I{folder}", f"--python_out={made}", *sorted(written)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert {str(path.relative_to(made)) for path in made.rglob("*.py")} == {
        name.replace(".proto", "_pb2.py") for name in written
    }
