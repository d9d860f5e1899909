"""Answers to identical requests: found again, made once, kept within bounds, and nobody else's."""

import asyncio
import threading
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from types import SimpleNamespace

import grpc
import httpx
import numpy as np
import pytest
from conftest import Photo, RunningServer, Stubs, run_server
from cutout.v1 import image_pb2, image_service_pb2, mask_pb2, model_service_pb2, segmentation_pb2
from cutout.v1 import segmentation_service_pb2 as pb2
from cutout_client import Client
from cutout_server import parts
from cutout_server.errors import DeadlineError, InvalidRequestError
from cutout_server.images.fetch import FetchPolicy
from cutout_server.pipelines import response_cache
from cutout_server.pipelines.response_cache import ResponseCache, ResponseKey, digest
from cutout_server.types import Box, MaskFormat, ObjectPrompt, Options, PromptFields, PromptsRequest, Strategy
from probe_family import Probe, probe_family
from waiting import PATIENCE_S, until, wait_until

KEYS = {"api_keys": [{"caller": caller, "key": caller * 16, "roles": ["operator"]} for caller in ("a", "b")]}
KEY = ResponseKey("a", ("one", "two"), b"sha")


def giving(answer: str, made: list[str]) -> Callable[[], Awaitable[str]]:
    async def make() -> str:
        made.append(answer)
        await asyncio.sleep(0)
        return answer

    return make


def of(text: bytes, *models: str) -> ResponseKey:
    return ResponseKey("a", models or ("one",), text)


async def test_answers_are_bounded_in_bytes():
    """The oldest leave when there is no room, and one that alone is too large is not kept."""
    answers: ResponseCache[str] = ResponseCache(10, 60, len)
    made: list[str] = []
    for text in ("aaaa", "bbbb", "cccc", "far too large"):
        assert await answers.get(of(text.encode()), giving(text, made)) == (text, False)
    assert (len(answers), answers.bytes) == (2, 8)
    assert await answers.get(of(b"cccc"), giving("new", made)) == ("cccc", True)
    assert await answers.get(of(b"aaaa"), giving("again", made)) == ("again", False)
    assert await answers.get(of(b"far too large"), giving("new", made)) == ("new", False)
    assert (answers.hits, answers.misses) == (1, 6)


async def test_answers_are_kept_for_their_time_and_no_longer(monkeypatch: pytest.MonkeyPatch):
    """However often one is asked for, it is made anew after its time, and its room is given back."""
    now_s = 1000.0
    monkeypatch.setattr(response_cache, "time", SimpleNamespace(monotonic=lambda: now_s))
    answers: ResponseCache[str] = ResponseCache(100, 60, len)
    made: list[str] = []
    await answers.get(KEY, giving("first", made))
    for _ in range(3):
        assert await answers.get(KEY, giving("second", made)) == ("first", True)
        now_s += 19
    now_s += 4
    assert await answers.get(of(b"other"), giving("other", made)) == ("other", False)
    assert answers.bytes == len("other")
    assert await answers.get(KEY, giving("second", made)) == ("second", False)


@pytest.mark.parametrize("model", ["one", "two"])
async def test_a_model_takes_its_answers_along(model: str):
    """Those that it had a part in are forgotten; what is under way meanwhile is not kept, and nobody joins it."""
    answers: ResponseCache[str] = ResponseCache(100, 60, len)
    made: list[str] = []
    await answers.get(KEY, giving("old", made))
    await answers.get(of(b"sha", "three"), giving("other", made))
    answers.forget(model)
    assert answers.bytes == len("other")
    release = asyncio.Event()

    async def slowly() -> str:
        await release.wait()
        return "under way"

    flight = asyncio.ensure_future(answers.get(KEY, slowly))
    await asyncio.sleep(0)
    answers.forget(model)
    assert await answers.get(KEY, giving("new", made)) == ("new", False)
    release.set()
    assert await flight == ("under way", False)
    assert await answers.get(KEY, giving("no more", made)) == ("new", True)


async def test_errors_are_not_kept():
    """All who wait hear of it, and the next one tries anew."""
    answers: ResponseCache[str] = ResponseCache(100, 60, len)
    tried = []

    async def fail() -> str:
        tried.append(1)
        await asyncio.sleep(0)
        raise InvalidRequestError.of("image", "no good")

    outcomes = await asyncio.gather(*(answers.get(KEY, fail) for _ in range(3)), return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [InvalidRequestError] * 3
    assert len(tried) == 1
    assert await answers.get(KEY, giving("good", [])) == ("good", False)


async def test_anothers_deadline_is_not_ours():
    """When whoever began it has no time left, the others begin anew, once for all of them."""
    answers: ResponseCache[str] = ResponseCache(100, 60, len)
    made: list[str] = []
    late = asyncio.Event()

    async def too_late() -> str:
        await late.wait()
        raise DeadlineError("too late")

    first = asyncio.ensure_future(answers.get(KEY, too_late))
    await asyncio.sleep(0)
    joined = [asyncio.ensure_future(answers.get(KEY, giving("good", made))) for _ in range(3)]
    await asyncio.sleep(0)
    late.set()
    others = await asyncio.gather(*joined)
    assert sorted(others) == [("good", False), ("good", True), ("good", True)]
    assert made == ["good"]
    with pytest.raises(DeadlineError):
        await first


async def test_who_began_it_may_leave():
    """The others get the answer all the same; when the last one leaves, the work ends."""
    answers: ResponseCache[str] = ResponseCache(100, 60, len)
    begun, ended, release = [], [], asyncio.Event()

    async def slowly() -> str:
        begun.append(1)
        try:
            await release.wait()
        except asyncio.CancelledError:
            ended.append("cancelled")
            raise
        return "made"

    first, second = (asyncio.ensure_future(answers.get(KEY, slowly)) for _ in range(2))
    await until(lambda: begun)
    first.cancel()
    await asyncio.wait([first])
    release.set()
    assert await second == ("made", True)
    release.clear()
    alone = asyncio.ensure_future(answers.get(of(b"other"), slowly))
    await until(lambda: len(begun) == 2)
    alone.cancel()
    await asyncio.wait([alone])
    await until(lambda: ended)
    assert ended == ["cancelled"]


def test_the_digest_tells_requests_apart():
    """Equal requests have equal digests; a change of anything, however small, changes them."""
    points, labels = np.array([[3, 4]], np.float32), np.array([1], np.int32)
    prompt = ObjectPrompt(points, labels, Box(1, 2, 3, 4))
    request = PromptsRequest(image=None, prompts=(prompt,))
    others = [
        replace(request, prompts=(replace(prompt, box=Box(1, 2, 3, 4.0000001)),)),
        replace(request, prompts=(replace(prompt, points=np.array([[4, 3]], np.float32)),)),
        replace(request, prompts=(replace(prompt, labels=np.array([0], np.int32)),)),
        replace(request, prompts=(replace(prompt, logits=np.zeros((256, 256), np.float32)),)),
        replace(request, prompts=(prompt, prompt)),
        replace(request, fields=PromptFields("regions")),
        replace(request, segmenter="sam2"),
        replace(request, options=Options(mask_formats=(MaskFormat.PNG,))),
        replace(request, options=Options(strategy=Strategy.BEST)),
        replace(request, options=Options(nms_iou=1.0)),
        replace(request, options=Options(max_objects=1)),
    ]
    same = replace(request, prompts=(replace(prompt, points=points.copy()),))
    assert digest(same, b"file") == digest(request, b"file")
    digests = [digest(each, b"file") for each in (request, *others)]
    digests += [digest(request, b"fil", b"e"), digest(request, "file"), digest(request), digest(b"file", request)]
    assert len(set(digests)) == len(digests)
    with pytest.raises(TypeError, match="set"):
        digest({1})


@pytest.fixture(scope="module")
def probe() -> Probe:
    probe = Probe()
    probe.gate.set()
    return probe


@pytest.fixture(scope="module")
def keeping(probe: Probe) -> Iterator[RunningServer]:
    with probe_family(probe) as model, run_server(models=[model], answers_cache_bytes=1 << 20, **KEYS) as server:
        yield server


def ask(server: RunningServer, caller: str, request: pb2.SegmentByBoxRequest) -> segmentation_pb2.Segmentation:
    with server.channel() as channel:
        return Stubs.over(channel).segmentation.SegmentByBox(request, metadata=as_(caller)).segmentation


def as_(caller: str) -> tuple[tuple[str, str], ...]:
    return (("x-api-key", caller * 16),)


def boxed(content: bytes, x_max: float = 200, **options: object) -> pb2.SegmentByBoxRequest:
    box = mask_pb2.Box(x_min=20, y_min=20, x_max=x_max, y_max=200)
    options = segmentation_pb2.SegmentationOptions(**options)
    return pb2.SegmentByBoxRequest(image=image_pb2.Image(content=content), boxes=[box], options=options)


def test_all_who_ask_at_once_share_one_answer(photos: dict[str, Photo]):
    """One of them is answered by the model, the others by its answer, and only one seat is taken."""
    probe = Probe()
    settings = {"answers_cache_bytes": 1 << 20, "max_requests_per_device": 1}
    with probe_family(probe) as model, run_server(models=[model], **settings) as server, ThreadPoolExecutor(8) as pool:
        asked = [pool.submit(ask, server, "a", boxed(photos["coffee"].jpeg)) for _ in range(8)]
        wait_until(lambda: probe.passes)
        probe.gate.set()
        answers = [each.result() for each in asked]
        with Client(server.address) as client:
            kept = client.status().answers
    assert (kept.entries, kept.hits, kept.misses) == (1, 7, 1)
    assert probe.count("decode") == 1
    assert sorted(answer.cached for answer in answers) == [False] + [True] * 7
    assert all(answer.objects == answers[0].objects for answer in answers)


def test_what_is_at_an_address_now_decides(photos: dict[str, Photo], monkeypatch: pytest.MonkeyPatch):
    """Pictures at an address are fetched each time and known by what was fetched; errors name the address's field."""
    files = {"now": photos["coffee"].jpeg}

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(files["now"])

        def log_message(self, *args: object) -> None:
            """Silence."""

    probe = Probe()
    probe.gate.set()
    with HTTPServer(("127.0.0.1", 0), Handler) as there:
        policy = FetchPolicy(ports=(there.server_port,), allow_private=True)
        monkeypatch.setattr(parts, "_fetch_policy", lambda _: policy)
        thread = threading.Thread(target=there.serve_forever, args=(0.01,))
        thread.start()
        request = boxed(b"")
        request.image.uri = f"http://127.0.0.1:{there.server_port}/picture"
        with probe_family(probe) as model, run_server(models=[model], answers_cache_bytes=1 << 20) as server:
            answers = [ask(server, "a", request) for _ in range(2)]
            files["now"] = photos["rocket"].jpeg
            answers.append(ask(server, "a", request))
            files["now"] = b"no picture"
            with pytest.raises(grpc.RpcError) as refused:
                ask(server, "a", request)
        there.shutdown()
        thread.join()
    assert [answer.cached for answer in answers] == [False, True, False]
    assert answers[1].image == answers[0].image != answers[2].image
    assert "image.uri" in refused.value.details()


def test_nothing_is_kept_unless_the_operator_wants_it(photos: dict[str, Photo]):
    """By default every request is answered by the models."""
    probe = Probe()
    probe.gate.set()
    with probe_family(probe) as model, run_server(models=[model]) as server:
        assert not any(ask(server, "a", boxed(photos["coffee"].jpeg)).cached for _ in range(2))
    assert probe.count("decode") == 2


def test_an_identical_request_costs_no_pass(keeping: RunningServer, probe: Probe, photos: dict[str, Photo]):
    """Its answer is the same but for the times, says that it is a repetition, and shows in status and metrics."""
    request = boxed(photos["astronaut"].jpeg)
    first = ask(keeping, "a", request)
    passes, before = len(probe.passes), keeping.app.status().answers
    again = ask(keeping, "a", request)
    assert (first.cached, again.cached, len(probe.passes)) == (False, True, passes)
    assert again.objects == first.objects
    assert len(again.objects[0].masks) == 1
    assert (again.image, again.models) == (first.image, first.models)
    assert (again.timings.decode_ms, again.timings.prompt_ms, again.timings.masks_ms) == (0, 0, 0)
    assert again.timings.total_ms > 0
    assert not again.timings.embedding_cached
    after = keeping.app.status().answers
    assert (after.hits, after.misses) == (before.hits + 1, before.misses)
    assert 0 < after.bytes <= after.capacity_bytes == 1 << 20
    with keeping.channel() as channel:
        told = Stubs.over(channel).models.GetStatus(model_service_pb2.GetStatusRequest(), metadata=as_("a")).answers
    assert (told.hits, told.entries, told.bytes) == (after.hits, after.entries, after.bytes)
    page = httpx.get(keeping.metrics_url, timeout=PATIENCE_S).text
    assert f"cutout_answers_cache_hits_total {float(after.hits)}" in page.splitlines()


def test_what_differs_is_answered_anew(keeping: RunningServer, photos: dict[str, Photo]):
    """Another caller, box, option or picture gets an answer of its own."""
    content = photos["coffee"].jpeg
    ask(keeping, "a", boxed(content))
    assert not ask(keeping, "b", boxed(content)).cached
    assert ask(keeping, "b", boxed(content)).cached
    for other in (
        boxed(content, x_max=201),
        boxed(content, min_area=1),
        boxed(content, mask_formats=[mask_pb2.MASK_FORMAT_PNG]),
        boxed(photos["rocket"].jpeg),
    ):
        assert not ask(keeping, "a", other).cached


def test_errors_are_answered_anew(keeping: RunningServer, photos: dict[str, Photo]):
    """A request that fails is tried each time that it comes, and nothing of it is kept."""
    before = keeping.app.status().answers
    for content in (photos["chelsea"].jpeg[:5000], photos["chelsea"].jpeg[:5000]):
        with pytest.raises(grpc.RpcError) as failed:
            ask(keeping, "a", boxed(content))
        assert failed.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    after = keeping.app.status().answers
    assert (after.entries, after.bytes, after.hits) == (before.entries, before.bytes, before.hits)


def test_an_unloaded_model_takes_its_answers_along(keeping: RunningServer, photos: dict[str, Photo]):
    """Whatever is loaded in its place answers for itself."""
    request = boxed(photos["chelsea"].jpeg)
    ask(keeping, "a", request)
    assert ask(keeping, "a", request).cached
    with keeping.channel() as channel:
        unload = model_service_pb2.UnloadModelRequest(name="probe")
        Stubs.over(channel).models.UnloadModel(unload, metadata=as_("a"))
    assert not ask(keeping, "a", request).cached


def test_uploads_are_known_by_their_bytes_and_their_owner(keeping: RunningServer, photos: dict[str, Photo]):
    """The same file uploaded twice is the same picture; one that is gone is not answered from memory."""
    with keeping.channel() as channel:
        stubs = Stubs.over(channel)
        chunk = image_service_pb2.UploadImageRequest(chunk={"data": photos["chelsea"].jpeg})
        ids = [stubs.images.UploadImage(iter([chunk]), metadata=as_("a")).image_id for _ in range(2)]
        requests = [boxed(b"") for _ in ids]
        for request, image_id in zip(requests, ids, strict=True):
            request.image.image_id = image_id
        assert [ask(keeping, "a", request).cached for request in requests] == [False, True]
        with pytest.raises(grpc.RpcError) as not_theirs:
            ask(keeping, "b", requests[0])
        stubs.images.DeleteImage(image_service_pb2.DeleteImageRequest(image_id=ids[0]), metadata=as_("a"))
    with pytest.raises(grpc.RpcError) as gone:
        ask(keeping, "a", requests[0])
    assert not_theirs.value.code() is gone.value.code() is grpc.StatusCode.NOT_FOUND


def test_the_client_says_so_too(keeping: RunningServer, photos: dict[str, Photo]):
    """What the answer says of itself reaches Python callers."""
    with Client(keeping.address, api_key="a" * 16) as client:
        answers = [client.segment_box(photos["rocket"].pixels, (20, 20, 90, 90)) for _ in range(2)]
    assert [answer.cached for answer in answers] == [False, True]
    assert np.array_equal(answers[0].masks, answers[1].masks)
