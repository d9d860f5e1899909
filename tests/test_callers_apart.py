"""What one caller sends is nothing that another is told of: neither by a flag nor by what the server leaves undone."""

import io
from collections.abc import Iterator

import numpy as np
import pytest
from conftest import Stubs, run_server
from cutout.v1 import image_pb2, mask_pb2
from cutout.v1 import segmentation_service_pb2 as pb2
from PIL import Image as Pillow
from probe_family import Probe, probe_family

KEYS = {name: name * 16 for name in ("a", "b")}
BOX = mask_pb2.Box(x_min=2, y_min=2, x_max=20, y_max=20)


def picture() -> bytes:
    file = io.BytesIO()
    pixels = np.random.default_rng(1).integers(0, 255, (24, 32, 3)).astype(np.uint8)
    Pillow.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


@pytest.fixture
def asked() -> Iterator[tuple[Stubs, Probe]]:
    probe = Probe()
    probe.gate.set()
    keys = [{"caller": name, "key": key} for name, key in KEYS.items()]
    with (
        probe_family(probe) as model,
        run_server(models=[model], api_keys=keys) as server,
        server.channel() as channel,
    ):
        yield Stubs.over(channel), probe


def test_nobody_learns_that_another_has_sent_the_very_picture(asked: tuple[Stubs, Probe]):
    """B's first request about A's picture is B's first: it is encoded anew, and said to be. Each keeps its own."""
    stubs, probe = asked
    request = pb2.SegmentByBoxRequest(image=image_pb2.Image(content=picture()), boxes=[BOX])

    def cached(caller: str) -> bool:
        answer = stubs.segmentation.SegmentByBox(request, metadata=[("x-api-key", KEYS[caller])])
        assert answer.segmentation.objects
        return answer.segmentation.timings.embedding_cached

    assert [cached(caller) for caller in ("a", "a", "b", "b", "a")] == [False, True, False, True, True]
    assert probe.count("encode") == 2
