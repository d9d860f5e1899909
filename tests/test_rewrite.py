"""Phrases rewritten by a language model: a real server that speaks the protocol, and everything it may do wrong."""

import asyncio
import json
import socket
import time
from collections.abc import AsyncIterator, Iterator
from types import SimpleNamespace

import pytest
import structlog
from cutout_common.config import ConfigError
from cutout_server import call_context
from cutout_server.parts import rewriter_of
from cutout_server.pipelines import rewrite as rewrite_module
from cutout_server.pipelines.phrases import MAX_FALSE_STARTS, read_phrases
from cutout_server.pipelines.rewrite import MAX_ANSWER_BYTES, Rewriter
from cutout_server.settings import Settings
from cutout_server.types import Rewriting, RewrittenPhrase
from cutout_server.wording import MAX_PHRASE_LENGTH
from language_model import KEY, MODEL, LanguageModel, run_language_model
from waiting import PATIENCE_S, until

FEET = "what would I wear on my feet?"
HEAD = "something for my head"
WEAR = json.dumps({"phrases": [{"prompt_index": 0, "phrase": "shoe"}, {"prompt_index": 0, "phrase": "sock"}]})


@pytest.fixture(scope="module")
def served() -> Iterator[LanguageModel]:
    with run_language_model() as model:
        yield model


@pytest.fixture
def model(served: LanguageModel) -> LanguageModel:
    served.reset()
    return served


@pytest.fixture(autouse=True)
def call():
    """Every rewriting belongs to a call."""
    call_context.begin(call_context.Call("request-7", "me", float("inf")))


def settings(url: str, **changes: object) -> Settings:
    given = {"rewrite_url": url, "rewrite_model": MODEL, "rewrite_api_key": KEY, "rewrite_timeout_s": PATIENCE_S}
    return Settings(**given | changes)


@pytest.fixture
async def rewriter(model: LanguageModel) -> AsyncIterator[Rewriter]:
    made = rewriter_of(settings(model.url))
    assert made is not None
    yield made
    await made.close()


def pairs(rewriting: Rewriting) -> list[tuple[str, int]]:
    return [(one.phrase, one.prompt_index) for one in rewriting.phrases]


async def test_sentences_become_noun_phrases(model: LanguageModel, rewriter: Rewriter):
    """Each noun phrase is tied to the sentence that it stands for; sentences travel as data, not as instructions."""
    model.says((1, "hat"), (0, "shoe"), (0, "sock"))
    rewriting = await rewriter.rewrite((FEET, HEAD))
    assert pairs(rewriting) == [("shoe", 0), ("sock", 0), ("hat", 1)]
    assert rewriting.failure == ""
    [question] = model.questions
    assert [message["role"] for message in question["messages"]] == ["system", "user"]
    asked = [{"prompt_index": 0, "text": FEET}, {"prompt_index": 1, "text": HEAD}]
    assert json.loads(question["messages"][1]["content"]) == asked
    assert question["response_format"]["type"] == "json_schema"


async def test_the_form_is_found_that_the_server_takes(model: LanguageModel, rewriter: Rewriter):
    """What a server refuses is left out, and not sent again."""
    model.says((0, "shoe"))
    for refused, expected in [
        ({"temperature"}, [("json_schema", 0), ("json_schema", None)]),
        ({"json_schema"}, [("json_schema", None), ("json_object", 0)]),
        ({"response_format"}, [("json_object", 0), (None, None)]),
        ({"response_format"}, [(None, None)]),
    ]:
        model.refuses = frozenset(refused)
        model.questions.clear()
        assert pairs(await rewriter.rewrite((FEET,))) == [("shoe", 0)]
        forms = [(q.get("response_format", {}).get("type"), q.get("temperature")) for q in model.questions]
        assert forms == expected


async def test_connections_are_shared(model: LanguageModel, rewriter: Rewriter):
    """Rewritings that run at the same time do not mix, and do not open a connection each."""
    model.content = [{"type": "text", "text": WEAR}]
    answers = await asyncio.gather(*(rewriter.rewrite((FEET,)) for _ in range(20)))
    assert all(pairs(answer) == [("shoe", 0), ("sock", 0)] for answer in answers)
    pool = rewriter._client._transport._pool  # type: ignore[attr-defined]
    before = len(pool.connections)
    for _ in range(5):
        await rewriter.rewrite((FEET,))
    assert len(pool.connections) == before


@pytest.mark.parametrize(
    ("changes", "failure"),
    [
        ({"status": 500}, "HTTP status 500"),
        ({"status": 429}, "HTTP status 429"),
        ({"status": 400}, "HTTP status 400"),
        ({"status": 302, "headers": {"location": "/v1/elsewhere"}}, "HTTP status 302"),
        ({"body": b"<html>It works!</html>"}, "something else than a chat completion"),
        ({"body": b"[" * 100_000}, "something else than a chat completion"),
        ({"body": b'{"choices": []}'}, "something else than a chat completion"),
        ({"body": b'{"choices": [{"message": "hello"}]}'}, "something else than a chat completion"),
        ({"body": b"\xff\xfe\x00"}, "something else than a chat completion"),
        ({"body": b" " * (2 * MAX_ANSWER_BYTES)}, "more than 262,144 bytes"),
        ({"body": b"x", "headers": {"content-encoding": "gzip"}}, "compressed"),
        ({"content": None}, "names no phrases"),
        ({"content": ""}, "names no phrases"),
        ({"content": "I am sorry, I cannot help with that."}, "names no phrases"),
        ({"content": '{"phrases": []}'}, "names no phrases"),
        ({"content": "[" * 50_000}, "names no phrases"),
    ],
)
async def test_failures_fall_back_to_the_plain_words(
    changes: dict[str, object], failure: str, model: LanguageModel, rewriter: Rewriter
):
    """Whatever goes wrong, the caller's words are used, the caller hears why, and the log has the request id."""
    for name, value in changes.items():
        setattr(model, name, value)
    with structlog.testing.capture_logs() as logs:
        rewriting = await rewriter.rewrite((FEET, "cat"))
    assert pairs(rewriting) == [(FEET, 0), ("cat", 1)]
    assert failure in rewriting.failure
    assert_discreet(rewriting.failure, model)
    [line] = [line for line in logs if line.get("request_id") == "request-7"]
    assert line["failure"] == rewriting.failure


async def test_a_slow_model_is_not_waited_for(model: LanguageModel):
    """The time limit ends the call to the model too, so that it stops working, and the next call is as good as new."""
    model.says((0, "shoe"))
    model.is_slow = True
    rewriter = rewriter_of(settings(model.url, rewrite_timeout_s=0.2))
    assert rewriter is not None
    rewriting = await rewriter.rewrite((FEET,))
    assert rewriting == Rewriting((RewrittenPhrase(FEET, 0),), "the language model did not answer within 0.2 s")
    assert await asyncio.to_thread(model.left.wait, PATIENCE_S)
    model.is_slow = False
    rewriter._timeout_s = PATIENCE_S
    assert pairs(await rewriter.rewrite((FEET,))) == [("shoe", 0)]
    await rewriter.close()


@pytest.mark.parametrize(("left_s", "given"), [(0.4, "0.2 s"), (-1.0, "0 s")])
async def test_the_plain_words_keep_time_of_their_own(
    left_s: float, given: str, model: LanguageModel, rewriter: Rewriter, monkeypatch: pytest.MonkeyPatch
):
    """At most half of the time that the call has left is spent; a call whose time is over still gets its words."""
    model.is_slow = True
    now_s = time.monotonic()
    monkeypatch.setattr(rewrite_module, "time", SimpleNamespace(monotonic=lambda: now_s))
    call_context.begin(call_context.Call("request-8", "me", now_s + left_s))
    rewriting = await rewriter.rewrite((FEET,))
    assert pairs(rewriting) == [(FEET, 0)]
    assert rewriting.failure == f"the language model did not answer within {given}"


async def test_a_wrong_key_is_the_operators_to_mend(model: LanguageModel):
    """The caller hears of the status; neither key nor address is told to it or logged."""
    rewriter = rewriter_of(settings(model.url, rewrite_api_key="sk-wrong-secret"))
    assert rewriter is not None
    with structlog.testing.capture_logs() as logs:
        rewriting = await rewriter.rewrite((FEET,))
    assert rewriting.failure == "the language model's server answered with HTTP status 401"
    assert "sk-wrong" not in rewriting.failure + repr(logs)
    await rewriter.close()


async def test_nobody_there():
    """A refused connection costs no time and no request."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))  # Bound and not listening: refuses.
        url = f"http://127.0.0.1:{unused.getsockname()[1]}/v1"
        rewriter = rewriter_of(settings(url))
        assert rewriter is not None
        rewriting = await rewriter.rewrite((FEET,))
        await rewriter.close()
    assert rewriting == Rewriting((RewrittenPhrase(FEET, 0),), "the connection to the language model failed")


async def test_a_caller_who_leaves_is_noticed(model: LanguageModel, rewriter: Rewriter):
    """Cancellation is not a failure of the model: it goes through."""
    model.is_slow = True
    task = asyncio.ensure_future(rewriter.rewrite((FEET,)))
    await until(lambda: model.questions)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await asyncio.to_thread(model.left.wait, PATIENCE_S)


@pytest.mark.parametrize(
    "answer",
    [
        WEAR,
        f"```json\n{WEAR}\n```",
        f"Sure! Here [as you asked] are the phrases:\n```\n{WEAR}\n```\nLet me know if {{you}} need more.",
        f'<think>The user wants {{"phrases": [{{"prompt_index": 0, "phrase": "glove"}}]}}?</think>\n{WEAR}',
        '{"prompt_index": 0, "phrase": "shoe"}\n{"prompt_index": 0, "phrase": "sock"}',
        '[{"phrase": "shoe"}, {"phrase": "sock"}]',
        '{"0": ["shoe", "sock"]}',
        json.dumps({FEET.upper(): ["shoe", "sock"]}),
        '{"result": {"prompt_index": "0", "noun_phrases": ["shoe", "sock"]}, "note": "two things"}',
        '{"phrases": [{"prompt_index": 1, "phrase": "shoe"}, {"prompt_index": 1, "phrase": "sock"}]}',  # From 1 on.
        '["shoe", "sock"]',
        "Here they are:\n- shoe\n- sock\n",
        "1. Shoe.\n2) **sock**",
        '["shoe. sock."]',
        '["shoe . sock"]',
        '["  \\"shoe\\" ", "SHOE", "sock", "sock.", "...", "", 7, null]',
        '{"phrases": [{"prompt_index": 0, "phrase": "shoe"}, {"prompt_index": 0, "phrase": "sock"}, {"prompt_ind',
    ],
)
def test_what_models_write_is_understood(answer: str):
    """JSON in fences, amid prose, cut short, as a map or a list; lists without JSON: all are read the same."""
    assert [(one.phrase.lower(), one.prompt_index) for one in read_phrases(answer, (FEET,), 256)] == [
        ("shoe", 0),
        ("sock", 0),
    ]


@pytest.mark.parametrize(
    "answer",
    [
        '[["shoe", "sock"], ["hat"]]',
        '{"0": ["shoe", "sock"], "1": "hat"}',
        '[{"index": 0, "phrases": ["shoe", "sock"]}, {"index": 1, "phrases": ["hat"]}]',
        '{"phrases": {"what would I wear on my feet?": ["shoe", "sock"], "something for my head": ["hat"]}}',
    ],
)
def test_several_sentences_are_told_apart(answer: str):
    """Forms that tie each noun phrase to its sentence are understood for several sentences too."""
    phrases = read_phrases(answer, (FEET, HEAD), 256)
    assert [(one.phrase, one.prompt_index) for one in phrases] == [("shoe", 0), ("sock", 0), ("hat", 1)]


def test_no_phrase_of_the_caller_is_lost():
    """A sentence for which nothing came is used as it is; what is tied to no sentence is left out."""
    answer = '[{"prompt_index": 1, "phrase": "hat"}, {"prompt_index": 9, "phrase": "tie"}, {"phrase": "scarf"}]'
    assert read_phrases(answer, (FEET, HEAD, "cat"), 256) == (
        RewrittenPhrase(FEET, 0),
        RewrittenPhrase("hat", 1),
        RewrittenPhrase("cat", 2),
    )
    assert read_phrases('["shoe", "sock", "hat"]', (FEET, HEAD), 256) == ()  # Whose is which?


def test_the_answer_can_be_nothing_but_phrases():
    """Number and length are bounded, control characters refused, each sentence's doubles left out, its share kept."""
    many = json.dumps(
        [[f"thing {index}" for index in range(1000)], ["hat", "THING 3", "Hat", "x" * (MAX_PHRASE_LENGTH + 1)]]
    )
    phrases = read_phrases(many, (FEET, HEAD), 20)
    assert [one.phrase for one in phrases] == [*(f"thing {index}" for index in range(10)), "hat", "THING 3"]
    hostile = json.dumps(["\x1b]0;owned\x07shoe", "sh\u202eoe", "\ud800", "drop\x00table", "sock"])
    assert [one.phrase for one in read_phrases(hostile, (FEET,), 20)] == ["sock"]


@pytest.mark.parametrize("answer", ["[" * 250_000, "{" * 250_000, '{"a":' * 50_000, "[1," * 80_000])
def test_no_answer_costs_much_time(answer: str, monkeypatch: pytest.MonkeyPatch):
    """The event loop reads the answers, so the worst of them are looked at a few times only."""
    decode, looks = json.JSONDecoder.raw_decode, []
    monkeypatch.setattr(
        json.JSONDecoder, "raw_decode", lambda self, text, at: looks.append(at) or decode(self, text, at)
    )
    assert read_phrases(answer, (FEET,), 256) == ()
    assert len(looks) <= MAX_FALSE_STARTS


def test_without_a_model_there_is_no_rewriter():
    """It is off unless the operator names one."""
    assert rewriter_of(Settings()) is None


@pytest.mark.parametrize(
    ("given", "complaint"),
    [
        ({"rewrite_model": MODEL}, "need rewrite_url"),
        ({"rewrite_api_key": KEY}, "need rewrite_url"),
        ({"rewrite_url": "http://host/v1", "rewrite_model": ""}, "needs rewrite_model"),
        ({"rewrite_url": "ftp://host/v1", "rewrite_model": MODEL}, "expected an http or https address"),
        ({"rewrite_url": "host/v1", "rewrite_model": MODEL}, "expected an http or https address"),
        ({"rewrite_url": "http://host:port/v1", "rewrite_model": MODEL}, "expected an http or https address"),
        ({"rewrite_url": "http://me:hush-hush@host/v1", "rewrite_model": MODEL}, "without user name"),
        ({"rewrite_url": "http://host", "rewrite_model": MODEL, "rewrite_api_key": "hush\nhush"}, "printable ASCII"),
        ({"rewrite_url": "http://host", "rewrite_model": MODEL, "rewrite_timeout_s": "0"}, "rewrite_timeout_s"),
    ],
)
def test_settings_that_do_not_fit_together_are_refused(
    given: dict[str, str], complaint: str, monkeypatch: pytest.MonkeyPatch
):
    """Each wrong setting is an error that names it and repeats no secret."""
    for name, value in given.items():
        monkeypatch.setenv(f"CUTOUT_{name.upper()}", value)
    with pytest.raises(ConfigError, match=complaint) as refused:
        Settings.load([])
    assert "hush" not in str(refused.value)


def test_the_key_is_not_printed():
    """It does not appear among the printed settings."""
    made = settings("http://host/v1")
    assert KEY not in made.to_yaml() + repr(made)


def test_the_query_of_the_address_is_kept():
    """Some services want one on every call."""
    rewriter = rewriter_of(settings("https://host/openai/v1/?api-version=preview"))
    assert rewriter is not None
    assert str(rewriter._url) == "https://host/openai/v1/chat/completions?api-version=preview"


def assert_discreet(text: str, model: LanguageModel) -> None:
    assert KEY not in text
    assert "127.0.0.1" not in text
    assert model.url not in text
