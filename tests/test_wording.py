"""What a phrase is, at every entrance: full stops within it, lists in one entry, and phrases that read alike."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import httpx
import numpy as np
import pytest
from client_fixtures import cutout
from conftest import Photo, RunningServer, Stubs, encode, run_server
from cutout.v1 import image_pb2, segmentation_pb2
from cutout.v1 import segmentation_service_pb2 as pb2
from cutout_client import AsyncClient, Client, Omission
from cutout_gateway.settings import GatewaySettings
from cutout_server.models.family import Family
from cutout_server.models.queries import Detection, DetectQuery, MaskQuery, TextFind, TextQuery
from cutout_server.models.registry import FAMILIES
from cutout_server.types import Box, MaskPatch, Task
from cutout_server.wording import reading, split
from gateway_fixtures import GatewayThread
from hypothesis import given
from hypothesis import strategies as st
from language_model import KEY, MODEL, LanguageModel, run_language_model
from waiting import PATIENCE_S

PIXELS = np.random.default_rng(5).integers(0, 255, (64, 64, 3), np.uint8)
PICTURE = encode(PIXELS, ".png")
DOTTED = ["St. Bernard", "U.S. flag", "3.5 cups"]
ALIKE = ["cat", "dog", "Cat", "cat ", "CAT.", "  c\u0061t  !", "Dog"]
JOINED = [Omission("same_phrase", 4, (2, 3, 4, 5), same_as=0), Omission("same_phrase", 1, (6,), same_as=1)]


@pytest.mark.parametrize(
    ("entry", "phrases"),
    [
        ("cat", ["cat"]),
        (" cat ", ["cat"]),
        ("cat.", ["cat"]),
        ("St. Bernard", ["St. Bernard"]),
        ("U.S. flag", ["U.S. flag"]),
        ("cat.dog", ["cat.dog"]),
        ("cat . remote control", ["cat", "remote control"]),
        ("cat . remote control .", ["cat", "remote control"]),
        ("cat . remote control.", ["cat", "remote control"]),
        ("cat. remote control.", ["cat", "remote control"]),
        ("U.S. flag . St. Bernard", ["U.S. flag", "St. Bernard"]),
        ("U.S. flag . St. Bernard .", ["U.S. flag", "St. Bernard"]),
        ("St. Bernard .", ["St. Bernard"]),
        ("U.S. .", ["U.S."]),
        (". cat\n.\tdog .", ["cat", "dog"]),
        (" . ", []),
        (" . . ", []),
        (".", []),
        ("", []),
    ],
)
def test_the_phrases_of_an_entry(entry: str, phrases: list[str]):
    """Full stops that stand alone separate; others do where none does and the entry ends in one."""
    assert split(entry) == phrases


WORD = st.text("aB.\u00e9\u732b", min_size=1).filter(lambda word: word != ".")


@given(st.lists(st.lists(WORD, min_size=1, max_size=3).map(" ".join), min_size=1, max_size=4))
def test_any_phrases_can_be_listed(phrases: list[str]):
    """Whatever full stops phrases have, in a list closed by one that stands alone they come back as they are."""
    assert split(" . ".join(phrases) + " .") == phrases


@pytest.mark.parametrize("other", ["Cat", "cat ", "CAT.", " cAT!", "cat .", "\uff43at"])
def test_what_reads_alike(other: str):
    """Case, blanks, closing punctuation and letters of another width make no other phrase; all else does."""
    assert reading(other) == reading("cat")
    assert reading("remote  control") == reading("Remote control")
    assert len({reading(each) for each in ("cat", "cats", "a cat", "c\u00e1t", "ca t", "...", "??")}) == 7


@dataclass(frozen=True)
class Frame:
    """What a find's mask needs."""

    image_size: tuple[int, int]
    nbytes: int = 0


@dataclass
class Finder:
    """A detector and a text segmenter that finds one square for each phrase, and notes what it is asked."""

    nbytes: int = 0
    asked: list[tuple[str, ...]] = field(default_factory=list)

    def detect(self, queries: Sequence[DetectQuery]) -> list[list[Detection]]:
        self.asked += [query.phrases for query in queries]
        return [[Detection(_square(i), 0.9 - i / 100, i) for i in range(len(query.phrases))] for query in queries]

    def encode(self, images: Sequence[np.ndarray]) -> list[Frame]:
        return [Frame(image.shape[:2]) for image in images]

    image_features = encode

    def segment_text(self, queries: Sequence[TextQuery]) -> list[list[TextFind]]:
        self.asked += [query.phrases for query in queries]
        return [[_find(query, i) for i in range(len(query.phrases))] for query in queries]

    def masks(self, queries: Sequence[MaskQuery]) -> list[MaskPatch]:
        return [MaskPatch.of(query.logits > query.threshold) for query in queries]


def _square(index: int) -> Box:
    return Box(8 * index, 8, 8 * index + 7, 15)


def _find(query: TextQuery, index: int) -> TextFind:
    box = _square(index)
    logits = np.full(query.embedding.image_size, -1, np.float32)
    logits[int(box.y_min) : int(box.y_max), int(box.x_min) : int(box.x_max)] = 1
    return TextFind(box, 0.9 - index / 100, index, query.embedding, logits)


@dataclass(frozen=True)
class Finding:
    """A server whose words go to a `Finder`, its gateway, and a language model."""

    server: RunningServer
    url: str
    finder: Finder
    words: LanguageModel


@pytest.fixture(scope="module")
def running() -> Iterator[Finding]:
    finder = Finder()
    for name, task in (("finder", Task.DETECT), ("outliner", Task.SEGMENT_TEXT)):
        FAMILIES[name] = Family(name, frozenset({task}), lambda *_: finder, needs_checkpoint=False)
    models = [{"name": name, "family": name} for name in ("finder", "outliner", "builtin")]
    with run_language_model() as words:
        language = {"rewrite_url": words.url, "rewrite_model": MODEL, "rewrite_api_key": KEY}
        with (
            run_server(models=models, default_detector="finder", **language) as server,
            GatewayThread(GatewaySettings(server_address=server.address)) as gateway,
        ):
            yield Finding(server, gateway.url, finder, words)
    del FAMILIES["finder"], FAMILIES["outliner"]


@pytest.fixture
def finding(running: Finding) -> Finding:
    running.finder.asked.clear()
    running.words.reset()
    return running


@pytest.fixture
def client(finding: Finding) -> Iterator[Client]:
    with Client(finding.server.address) as connected:
        yield connected


def request(*phrases: str, **more: object) -> pb2.SegmentByTextRequest:
    return pb2.SegmentByTextRequest(image=image_pb2.Image(content=PICTURE), phrases=phrases, **more)


def segment(finding: Finding, *phrases: str, **more: object) -> segmentation_pb2.Segmentation:
    with finding.server.channel() as channel:
        return Stubs.over(channel).segmentation.SegmentByText(request(*phrases, **more)).segmentation


def test_dots_over_grpc(finding: Finding):
    """Each entry is one phrase, whole, and its label."""
    answer = segment(finding, *DOTTED)
    assert finding.finder.asked == [tuple(DOTTED)]
    assert {each.prompt_index: each.label for each in answer.objects} == dict(enumerate(DOTTED))
    assert not answer.omissions


def test_dots_over_rest(finding: Finding):
    """In JSON, in forms and in the query alike."""
    body = {"image": {"tensor": {"height": 1, "width": 1, "channels": 3, "data": "AAAA"}}, "phrases": DOTTED}
    httpx.post(f"{finding.url}/v1/segment:text", json=body, timeout=PATIENCE_S).raise_for_status()
    form = {"phrases": DOTTED}
    httpx.post(
        f"{finding.url}/v1/segment:text", data=form, files={"image.content": PICTURE}, timeout=PATIENCE_S
    ).raise_for_status()
    httpx.post(f"{finding.url}/v1/overlay", params=form, content=PICTURE, timeout=PATIENCE_S).raise_for_status()
    stream = {"text.phrases": DOTTED}
    httpx.post(
        f"{finding.url}/v1/segment:stream", data=stream, files={"text.image.content": PICTURE}, timeout=PATIENCE_S
    )
    assert finding.finder.asked == [tuple(DOTTED)] * 4


async def test_dots_from_the_client(finding: Finding, client: Client):
    """Alone, in a list, streamed, in sessions, for overlays and with asyncio."""
    client.segment_text(PICTURE, DOTTED[0])
    client.segment_text(PICTURE, DOTTED)
    client.stream(PICTURE, phrases=DOTTED).result()
    client.overlay(PICTURE, phrases=DOTTED)
    with client.session(PICTURE) as session:
        session.text(DOTTED)
    async with AsyncClient(finding.server.address) as connected:
        await connected.segment_text(PICTURE, DOTTED)
    assert finding.finder.asked == [tuple(DOTTED[:1]), *[tuple(DOTTED)] * 5]


def test_dots_from_the_command_line(finding: Finding, tmp_path):
    """One argument is one phrase."""
    (tmp_path / "a.png").write_bytes(PICTURE)
    done = cutout(finding.server.address, "segment", tmp_path / "a.png", "--text", *DOTTED, "--out", tmp_path, "--json")
    assert sorted(each["label"] for each in json.loads(done.stdout)["objects"]) == sorted(DOTTED)


def test_dots_in_rewritten_phrases(finding: Finding):
    """What a language model says is read by the same rule."""
    finding.words.says((0, "St. Bernard"), (0, "cat . dog"))
    answer = segment(finding, "which pets?", rewrite=True)
    assert finding.finder.asked == [("St. Bernard", "cat", "dog")]
    assert {each.label for each in answer.objects} == {"St. Bernard", "cat", "dog"}


@pytest.mark.parametrize("names", [{}, {"segmenter": "outliner"}], ids=["detector", "text segmenter"])
def test_alike_over_grpc(finding: Finding, names: dict[str, str]):
    """Asked once; objects carry the first one's label and index, and the answer names the others."""
    answer = segment(finding, *ALIKE, **names)
    assert finding.finder.asked == [("cat", "dog")]
    assert [(each.label, each.prompt_index) for each in answer.objects] == [("cat", 0), ("dog", 1)]
    same = segmentation_pb2.Omission.REASON_SAME_PHRASE
    told = [(each.reason, each.count, list(each.prompt_indices), each.same_as) for each in answer.omissions]
    assert told == [(same, 4, [2, 3, 4, 5], 0), (same, 1, [6], 1)]


def test_alike_over_rest(finding: Finding):
    """Under the contract's names."""
    form = {"phrases": ["cat", "Cat"]}
    answer = httpx.post(
        f"{finding.url}/v1/segment:text", data=form, files={"image.content": PICTURE}, timeout=PATIENCE_S
    ).json()
    omission = {"reason": "REASON_SAME_PHRASE", "count": 1, "promptIndices": [1], "sameAs": 0}
    assert answer["omissions"] == [omission]


async def test_alike_from_the_client(finding: Finding, client: Client):
    """Whole, streamed, in sessions, in tiles and with asyncio."""
    asked = [
        client.segment_text(PICTURE, ALIKE),
        client.stream(PICTURE, phrases=ALIKE).result(),
        client.segment_text(np.tile(PIXELS, (6, 6, 1)), ALIKE, tiling=256),
    ]
    with client.session(PICTURE) as session:
        asked.append(session.text(ALIKE))
    async with AsyncClient(finding.server.address) as connected:
        asked.append(await connected.segment_text(PICTURE, ALIKE))
    assert set(finding.finder.asked) == {("cat", "dog")}
    for result in asked:
        assert {(each.label, each.prompt_index) for each in result} == {("cat", 0), ("dog", 1)}
        assert [each for each in result.omissions if each.same_as is not None] == JOINED
    assert str(JOINED[1]) == "phrase 6, which reads like phrase 1"


def test_alike_on_the_command_line(finding: Finding, tmp_path):
    """Named below the table, once for all pictures."""
    for name in ("a.png", "b.png"):
        (tmp_path / name).write_bytes(PICTURE)
    shown = cutout(finding.server.address, "segment", tmp_path, "--text", "cat", "Cat", "--out", tmp_path / "out")
    assert shown.stdout.count("\nleft out: phrase 1, which reads like phrase 0\n") == 1


def test_alike_after_rewriting(finding: Finding):
    """Of sentences that come to the same noun the second is told to be answered by the first."""
    finding.words.says((0, "shoe"), (1, "Shoe"), (1, "sock"))
    answer = segment(finding, "what goes on my feet?", "and what else?", rewrite=True)
    assert [(each.label, each.prompt_index) for each in answer.objects] == [("shoe", 0), ("sock", 1)]
    assert [(each.phrase, each.prompt_index) for each in answer.rewriting.phrases] == [
        ("shoe", 0),
        ("Shoe", 1),
        ("sock", 1),
    ]
    assert [(list(each.prompt_indices), each.same_as) for each in answer.omissions] == [([1], 0)]


def test_the_builtin_model(server: RunningServer, photos: dict[str, Photo]):
    """The cat is found once, however often it is asked for."""
    with Client(server.address) as client:
        result = client.segment_text(photos["chelsea"].jpeg, ["cat", "Cat", "cat ", "CAT."])
        assert [(each.label, each.prompt_index) for each in result] == [("cat", 0)]
        assert [each for each in result.omissions if each.same_as is not None] == [
            Omission("same_phrase", 3, (1, 2, 3), same_as=0)
        ]
