"""The two clients are one API; what the package exports is what it says."""

import inspect
import subprocess
import sys
from dataclasses import fields

import cutout_client
import pytest
from cutout_client import (
    AsyncClient,
    AsyncGenerationStream,
    AsyncLiveStream,
    AsyncObjectStream,
    AsyncSession,
    Client,
    ConnectionOptions,
    GenerationStream,
    LiveStream,
    ObjectStream,
    Session,
)
from cutout_client.aio_videos import AsyncVideos
from cutout_client.connection import Connection
from cutout_client.streams import AsyncMessageStream, MessageStream
from cutout_client.videos import Videos

PAIRS = [
    (Client, AsyncClient),
    (Videos, AsyncVideos),
    (Session, AsyncSession),
    (LiveStream, AsyncLiveStream),
    (MessageStream, AsyncMessageStream),
    (ObjectStream, AsyncObjectStream),
    (GenerationStream, AsyncGenerationStream),
]
LAZY = {
    "stream",
    "generate_stream",
    "session",
    "image",
    "live",
    "track",
    "track_video",
}  # give an object that waits when it is used


def public(cls: type) -> dict[str, object]:
    """The public members that a class adds."""
    return {name: value for name, value in vars(cls).items() if not name.startswith("_")}


@pytest.mark.parametrize(("sync", "asynchronous"), PAIRS)
def test_same_members(sync: type, asynchronous: type) -> None:
    """Both have the same public members."""
    assert public(sync).keys() == public(asynchronous).keys()
    assert public(sync)


@pytest.mark.parametrize(("sync", "asynchronous"), PAIRS)
def test_same_signatures(sync: type, asynchronous: type) -> None:
    """Each method takes the same arguments with the same types and defaults, and gives the same type."""
    for name, method in public(sync).items():
        if not inspect.isfunction(method):
            continue
        ours, theirs = inspect.signature(method), inspect.signature(getattr(asynchronous, name))
        if name == "live":  # Whose frames may come from an async iterator, too.
            each = theirs.parameters["frames"].replace(annotation=ours.parameters["frames"].annotation)
            theirs = theirs.replace(parameters=[*({**theirs.parameters, "frames": each}.values())])
        assert ours.parameters == theirs.parameters, name
        if name not in LAZY:
            assert ours.return_annotation == theirs.return_annotation, name
            assert inspect.iscoroutinefunction(getattr(asynchronous, name)), name


def test_same_construction() -> None:
    """Both clients are made with the same arguments."""
    assert inspect.signature(Client).parameters == inspect.signature(AsyncClient).parameters
    ours = {field.name: field.type for field in fields(Connection)}
    assert ours == {"address": str, **ConnectionOptions.__annotations__}
    for name in ours:
        assert f"        {name}: " in (Client.__doc__ or "")


def test_everything_is_documented() -> None:
    """Every public member has a docstring."""
    for cls in {cls for pair in PAIRS for cls in pair}:
        for name, member in public(cls).items():
            if callable(member) or isinstance(member, property):
                assert inspect.getdoc(member), f"{cls.__name__}.{name}"


def test_exported_members() -> None:
    """`__all__` is sorted and names every public class and alias that the package has, and nothing else."""
    public_names = {
        name for name, value in vars(cutout_client).items() if not name.startswith("_") and not inspect.ismodule(value)
    }
    assert sorted(cutout_client.__all__) == cutout_client.__all__
    assert set(cutout_client.__all__) == public_names | {"__version__"}


def test_client_needs_no_server() -> None:
    """The client and its command line import neither the server, nor the gateway, nor their dependencies."""
    code = (
        "import sys, cutout_client.cli; "
        "foreign = ('cutout_server', 'cutout_gateway', 'torch', 'cv2', 'pydantic', 'yaml', 'structlog', 'starlette'); "
        "print([name for name in foreign if name in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
