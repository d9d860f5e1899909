"""`cutout protos`: the contracts with all that they import, for stubs in any language."""

import argparse
import io
import zipfile
from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from typing import Any

from google.protobuf.descriptor_pb2 import FileDescriptorSet

from cutout_client.cli import console

# Not imported by the contracts: errors carry their messages packed.
DETAILS = "google/rpc/error_details.proto"
# Every protoc, and buf, brings these itself.
COMPILERS_OWN = "google/protobuf/"


def add_to(commands: Any) -> None:
    """Adds the command."""
    parser = commands.add_parser(
        "protos",
        help="write the .proto files, for stubs in any language",
        description="Writes the contracts and Google's files that they import, so that protoc and buf need nothing "
        "else and no network: protoc -I OUT, buf generate OUT.",
    )
    parser.add_argument("--out", metavar="DIR", required=True, type=Path, help="a folder, or a file that ends in .zip")
    parser.set_defaults(run=run, takes_others=False)


def run(args: argparse.Namespace) -> int:
    """Writes the files and prints their names."""
    contents = dict(files())
    if args.out.suffix == ".zip":
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_bytes(_zipped(contents))
    else:
        for name, content in contents.items():
            path = args.out / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
    for name in contents:
        console.stdout().print(args.out / name, soft_wrap=True)
    return 0


def files() -> Iterator[tuple[str, bytes]]:
    """Name and content of each file, the names as the files import each other, ascending."""
    descriptors = resources.files("cutout.v1").joinpath("descriptors.binpb").read_bytes()
    names = {file.name for file in FileDescriptorSet.FromString(descriptors).file} | {DETAILS}
    for name in sorted(names):
        if not name.startswith(COMPILERS_OWN):
            folder, _, file = name.rpartition("/")
            yield name, resources.files(folder.replace("/", ".")).joinpath(file).read_bytes()


def _zipped(contents: dict[str, bytes]) -> bytes:
    """An archive; the same files make the same bytes."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in contents.items():
            archive.writestr(zipfile.ZipInfo(name), content, zipfile.ZIP_DEFLATED)
    return packed.getvalue()
