"""Metrics: what moves, what they are called, and that real Prometheus tools accept them."""

import re
import subprocess

import grpc
import httpx
import pytest
from conftest import Photo, RunningServer, Stubs, run_server
from cutout.v1 import image_pb2, mask_pb2, model_service_pb2
from cutout.v1 import segmentation_service_pb2 as pb2
from cutout_common.commit import commit
from probe_family import Probe, probe_family
from prometheus_client.parser import text_string_to_metric_families
from waiting import PATIENCE_S, wait_until

from tools import require

BOX = mask_pb2.Box(x_min=60, y_min=20, x_max=400, y_max=290)
RPC = {"grpc_type": "unary", "grpc_service": "cutout.v1.SegmentationService", "grpc_method": "SegmentByBox"}


def scrape(server: RunningServer) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    text = httpx.get(server.metrics_url, timeout=PATIENCE_S).text
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


@pytest.fixture
def moved(photos: dict[str, Photo]):
    """What two good calls and two bad ones moved, as a function of name and labels."""
    image = image_pb2.Image(content=photos["chelsea"].jpeg)
    with run_server() as server, server.channel() as channel:
        stubs = Stubs.over(channel)
        before = scrape(server)
        for _ in range(2):
            stubs.segmentation.SegmentByBox(pb2.SegmentByBoxRequest(image=image, boxes=[BOX, BOX]))
        for bad in (
            pb2.SegmentByBoxRequest(image=image),
            pb2.SegmentByBoxRequest(image={"content": b"x"}, boxes=[BOX]),
        ):
            with pytest.raises(grpc.RpcError):
                stubs.segmentation.SegmentByBox(bad)
        after = scrape(server)

    def value(name: str, **labels: str) -> float:
        key = (name, frozenset(labels.items()))
        return after[key] - before.get(key, 0)

    return value


def test_calls_are_counted_under_the_standard_names(moved):
    """Started, handled by code, messages and time, with the labels of go-grpc-prometheus."""
    assert moved("grpc_server_started_total", **RPC) == 4
    assert moved("grpc_server_handled_total", **RPC, grpc_code="OK") == 2
    assert moved("grpc_server_handled_total", **RPC, grpc_code="INVALID_ARGUMENT") == 2
    assert moved("grpc_server_msg_received_total", **RPC) == 4
    assert moved("grpc_server_msg_sent_total", **RPC) == 2
    assert moved("grpc_server_handling_seconds_count", **RPC) == 4
    assert moved("grpc_server_handling_seconds_sum", **RPC) > 0


def test_the_build_is_told_everywhere_alike(server: RunningServer):
    """`cutout_build_info` is 1, with the version and the commit that GetStatus tells."""
    with server.channel() as channel:
        status = Stubs.over(channel).models.GetStatus(model_service_pb2.GetStatusRequest())
    assert (status.version, status.commit) == ("0.1.0", commit())
    told = frozenset({"version": status.version, "commit": status.commit}.items())
    assert scrape(server)["cutout_build_info", told] == 1


def test_what_the_server_does_is_counted(moved):
    """Stages, queues, batches, cache, models, refusals and pictures."""
    assert moved("cutout_stage_seconds_count", stage="decode") >= 2
    assert moved("cutout_stage_seconds_sum", stage="prompt") > 0
    assert moved("cutout_requests_refused_total", reason="INVALID_ARGUMENT") == 1
    assert moved("cutout_queue_wait_seconds_count", device="cpu") >= 5
    assert moved("cutout_batch_size_sum", device="cpu", operation="decode") == 4
    assert moved("cutout_batch_size_sum", device="cpu", operation="encode") == 1
    assert moved("cutout_embeddings_cache_hits_total", device="cpu") == 1
    assert moved("cutout_embeddings_cache_misses_total", device="cpu") == 1
    assert moved("cutout_embeddings_cache_bytes", device="cpu") > 0
    assert moved("cutout_image_megapixels_count") == 2
    assert moved("cutout_queue_depth", device="cpu") == moved("cutout_requests_in_hand", device="cpu") == 0
    assert moved("cutout_model_bytes", device="cpu", model="builtin") == 0
    assert moved("cutout_embeddings_cache_remade_total", device="cpu") == 0
    assert moved("cutout_device_model_bytes", device="cpu") == 0
    assert moved("cutout_device_memory_total_bytes", device="cpu") == 0


def test_what_is_held_is_told(photos: dict[str, Photo]):
    """The pixels of a picture while its request is worked on, and the bytes of its message; nothing afterwards."""
    probe, photo = Probe(), photos["chelsea"]
    height, width = photo.pixels.shape[:2]
    request = pb2.SegmentByBoxRequest(image={"content": photo.jpeg}, boxes=[BOX])
    pixels, messages = (
        ("cutout_pixels_in_hand", frozenset()),
        ("cutout_bytes_in_hand", frozenset({("what", "messages")})),
    )
    with probe_family(probe) as model, run_server(models=[model]) as server, server.channel() as channel:
        call = Stubs.over(channel).segmentation.SegmentByBox.future(request, timeout=PATIENCE_S)
        wait_until(lambda: probe.count("encode"))
        held = scrape(server)
        probe.gate.set()
        call.result()
        after = scrape(server)
    assert (held[pixels], held[messages]) == (height * width, request.ByteSize())
    assert after[pixels] == after[messages] == 0


def test_bounds_and_models_are_told(photos: dict[str, Photo]):
    """How much there may be of what is told, which models are loaded and how often they were; failures from 0 on."""
    cpu, builtin = {"device": "cpu"}, {"device": "cpu", "model": "builtin"}
    bounds = {"max_requests_per_device": 7, "embeddings_cache_bytes": 12_345, "memory_budget_bytes": 10**9}
    with run_server(**bounds) as server, server.channel() as channel:
        stubs = Stubs.over(channel).models
        before = scrape(server)
        stubs.UnloadModel(model_service_pb2.UnloadModelRequest(name="builtin"))
        unloaded = scrape(server)
        stubs.LoadModel(model_service_pb2.LoadModelRequest(name="builtin"))
        after = scrape(server)

    def key(name: str, labels: dict[str, str]) -> tuple[str, frozenset[tuple[str, str]]]:
        return (name, frozenset(labels.items()))

    told = [before[key(f"cutout_{name}", cpu)] for name in ("requests_capacity", "embeddings_cache_capacity_bytes")]
    assert [*told, before[key("cutout_device_memory_budget_bytes", cpu)]] == list(bounds.values())
    held, loads = key("cutout_model_loaded", builtin), key("cutout_model_loads_total", builtin)
    assert [(at[held], at[loads]) for at in (before, unloaded, after)] == [(1, 1), (0, 1), (1, 2)]
    for name, labels in (("decodes_given_up", {"why": "died"}), ("jobs_dropped", cpu | {"why": "deadline"})):
        assert before[key(f"cutout_{name}_total", labels)] == 0


def test_callers_cannot_make_up_label_values(server: RunningServer, stubs: Stubs):
    """Unknown methods, odd metadata and odd model names leave no trace among the labels."""
    for name in ("x" * 50, "y" * 50):
        with pytest.raises(grpc.RpcError):
            stubs.segmentation.SegmentByBox(
                pb2.SegmentByBoxRequest(image={"content": b"x"}, boxes=[BOX], segmenter=name),
                metadata=(("x-request-id", name), ("user-agent", name)),
            )
        with server.channel() as channel, pytest.raises(grpc.RpcError):
            channel.unary_unary(f"/cutout.v1.SegmentationService/{name}")(b"")
    assert not re.search("x{50}|y{50}", httpx.get(server.metrics_url, timeout=PATIENCE_S).text)


def test_promtool_finds_nothing_to_complain_about(server: RunningServer, stubs: Stubs, photos: dict[str, Photo]):
    """`promtool check metrics` is clean."""
    promtool = require("promtool", "Debian has it in the package prometheus")
    stubs.segmentation.SegmentByBox(pb2.SegmentByBoxRequest(image={"content": photos["chelsea"].jpeg}, boxes=[BOX]))
    text = httpx.get(server.metrics_url, timeout=PATIENCE_S).text
    checked = subprocess.run([promtool, "check", "metrics"], input=text, capture_output=True, text=True)
    assert (checked.returncode, checked.stdout, checked.stderr) == (0, "", "")
