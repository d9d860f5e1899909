"""Pictures that take long to decode, beside a caller with ordinary ones: they cost their own callers alone."""

import sys
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from conftest import Photo, RunningServer, Stubs, run_server
from cutout.v1 import image_service_pb2, mask_pb2
from cutout.v1 import segmentation_service_pb2 as pb2
from cutout_client import errors
from cutout_server.images import decode_process
from decode_processes import DecodeProcesses
from probe_family import Probe, probe_family
from slow_pictures import many_scans
from waiting import wait_until

pytestmark = pytest.mark.slow

BOX = mask_pb2.Box(x_min=2, y_min=2, x_max=30, y_max=30)
KEYS = [{"caller": name, "key": f"{name}-0123456789abcdef"} for name in ("attacker", "neighbour")]
ATTACKER, NEIGHBOUR = ([("x-api-key", str(key["key"]))] for key in KEYS)
HELD = str(Path(__file__).parent.parent / "held_worker.py")


def by_box(content: bytes) -> pb2.SegmentByBoxRequest:
    return pb2.SegmentByBoxRequest(image={"content": content}, boxes=[BOX])


def given_up(server: RunningServer, why: str) -> float:
    return server.app.parts.metrics.registry.get_sample_value("cutout_decodes_given_up_total", {"why": why}) or 0.0


@pytest.fixture(scope="module")
def slow() -> bytes:
    """As much work as 270 megapixels."""
    return many_scans(3000, 95)


@pytest.fixture
def gate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Until this file is there, pictures that take long take for ever."""
    monkeypatch.setattr(decode_process, "COMMAND", (sys.executable, HELD))
    monkeypatch.setenv("HELD_WORKER_GATE", str(tmp_path / "gate"))
    return tmp_path / "gate"


@pytest.fixture
def server(decode_processes: DecodeProcesses) -> Iterator[RunningServer]:
    probe = Probe()
    probe.gate.set()
    with probe_family(probe) as model, run_server(models=[model], api_keys=KEYS, decoding_processes=3) as server:
        yield server
    assert not decode_processes()


@pytest.fixture
def stubs(server: RunningServer) -> Iterator[Stubs]:
    with server.channel() as channel:
        yield Stubs.over(channel)


def test_the_neighbour_is_served_while_the_attack_stands(
    stubs: Stubs, slow: bytes, photos: dict[str, Photo], gate: Path, decode_processes: DecodeProcesses
):
    """Its picture, its upload, its overlay; and one that takes long itself has a process that no other caller takes."""
    segment = stubs.segmentation.SegmentByBox
    attack = [segment.future(by_box(slow), metadata=ATTACKER) for _ in range(8)]
    wait_until(lambda: len(decode_processes()) == 2)
    good = by_box(photos["chelsea"].jpeg)
    good.options.overlay = 2
    assert segment(good, metadata=NEIGHBOUR).segmentation.overlay.data
    upload = iter([image_service_pb2.UploadImageRequest(chunk={"data": photos["rocket"].jpeg})])
    assert stubs.images.UploadImage(upload, metadata=NEIGHBOUR).image_id
    own = segment.future(by_box(slow), metadata=NEIGHBOUR)
    wait_until(lambda: len(decode_processes()) == 3)
    assert not any(call.done() for call in (*attack, own))
    gate.touch()
    assert [call.code() for call in (*attack, own)] == [grpc.StatusCode.OK] * 9


def test_work_stops_with_its_caller(
    server: RunningServer, stubs: Stubs, slow: bytes, gate: Path, decode_processes: DecodeProcesses
):
    """The processes are gone when callers leave, or are no longer waited for; whoever waits gets another."""
    segment = stubs.segmentation.SegmentByBox
    left = [segment.future(by_box(slow), metadata=ATTACKER) for _ in range(2)]
    wait_until(lambda: len(decode_processes()) == 2)
    before = {process.pid for process in decode_processes()}
    waiting = segment.future(by_box(slow), metadata=ATTACKER)
    for call in left:
        call.cancel()
    wait_until(lambda: given_up(server, "left") == 2)
    wait_until(lambda: len(decode_processes()) == 1)
    assert not before & {process.pid for process in decode_processes()}
    late = segment.future(by_box(slow), metadata=NEIGHBOUR, timeout=2)
    assert late.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    wait_until(lambda: len(decode_processes()) == 1)
    gate.touch()
    assert waiting.code() is grpc.StatusCode.OK


def test_a_process_that_dies_costs_its_own_picture(
    server: RunningServer, stubs: Stubs, slow: bytes, gate: Path, decode_processes: DecodeProcesses
):
    """Which may be sent again; the others are answered."""
    segment = stubs.segmentation.SegmentByBox
    calls = [segment.future(by_box(slow), metadata=ATTACKER) for _ in range(3)]
    wait_until(lambda: len(decode_processes()) == 2)
    decode_processes()[0].kill()
    wait_until(lambda: any(call.done() for call in calls))
    gate.touch()
    (unlucky,) = [call for call in calls if call.code() is not grpc.StatusCode.OK]
    error = errors.from_rpc(unlucky.exception(), "")
    assert (error.code, error.reason) == (grpc.StatusCode.UNAVAILABLE, "DECODER_DIED")
    assert error.retry_after_s
    assert given_up(server, "died") == 1


def test_a_picture_that_takes_too_long_is_given_up_for_good(
    photos: dict[str, Photo], decode_processes: DecodeProcesses
):
    """The field is named, nothing goes on behind it, and the next picture is answered."""
    probe = Probe()
    probe.gate.set()
    with (
        probe_family(probe) as model,
        run_server(models=[model], max_decode_s=1) as server,
        server.channel() as channel,
    ):
        segment = Stubs.over(channel).segmentation.SegmentByBox
        error = errors.from_rpc(segment.future(by_box(many_scans(9000, 95))).exception(), "")
        assert (error.code, error.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "IMAGE_TOO_COSTLY")
        assert [violation.field for violation in error.violations] == ["image.content"]
        assert given_up(server, "time") == 1
        assert not decode_processes()
        assert segment(by_box(photos["chelsea"].jpeg)).segmentation.objects
