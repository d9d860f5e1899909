"""A short video of a coffee cup, as a file, stored, and as its frames."""

from collections.abc import Iterator

import grpc
import numpy as np
import pytest
from conftest import RunningServer
from cutout.v1 import video_service_pb2 as pb2
from cutout_server.imaging.video import VideoLimits
from cutout_server.imaging.video_file import VideoFile
from test_service_tracking import SIZE, picture
from videos import upload, video

COUNT = 7
DATA = video([picture(index) for index in range(COUNT)])


@pytest.fixture(scope="module")
def channel(server: RunningServer) -> Iterator[grpc.Channel]:
    with server.channel() as opened:
        yield opened


@pytest.fixture(scope="module")
def stored(channel: grpc.Channel) -> pb2.Video:
    return upload(channel, DATA)


@pytest.fixture(scope="module")
def pixels(tmp_path_factory: pytest.TempPathFactory) -> list[np.ndarray]:
    """The frames of the file."""
    path = tmp_path_factory.mktemp("video") / "video.mp4"
    path.write_bytes(DATA)
    with VideoFile(path, VideoLimits(10**6, 100, 100.0), "x") as opened:
        return [each.pixels for each in opened.frames(range(COUNT), SIZE)]
