"""The gateway and a real Envoy transcode the same requests for the same server.

Everything is the same but for what `DIFFERENCES` lists; docs/rest.md has the same table.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from cutout_gateway.descriptors import Contract
from cutout_gateway.settings import MIB, GatewaySettings
from gateway_fixtures import HERE, EchoServer, GatewayThread, envoy, for_envoy
from waiting import PATIENCE_S

Case = tuple[str, str, Any]

SAME: list[Case] = [
    ("GET", "/v1/things/a%20b%2Fc", None),
    ("GET", "/v1/things/%C3%A9%25", None),
    ("GET", "/v1/things/a:b", None),
    ("GET", "/v1/things/", None),
    ("GET", "/v1/users/u/things/n", None),
    ("GET", "/v1/shelves/1/books/2/3%2F4%20", None),
    ("GET", "/v1/shelves/1/books", None),
    ("GET", "/v1/files/special", None),
    ("GET", "/v1/files/a/b", None),
    ("GET", "/v1/files", None),
    ("GET", "/v1/nested/n/7/COLOUR_BLUE/true", None),
    ("GET", "/v1/nested/n/x/COLOUR_BLUE/true", None),
    ("GET", "/v1/nested/n/7/GREEN/true", None),
    ("GET", "/nowhere", None),
    ("GET", "/v1/things/n?number=3&bigNumber=5&ratio=0.1", None),
    ("GET", "/v1/things/n?big_number=9007199254740993&weight=1e300&flag=true", None),
    ("GET", "/v1/things/n?ratio=NaN&weight=-Infinity", None),
    ("GET", "/v1/things/n?colour=COLOUR_RED&colours=1&colours=COLOUR_BLUE", None),
    ("GET", "/v1/things/n?colour=2&flag=1", None),
    ("GET", "/v1/things/n?data=aGk%3D", None),
    ("GET", "/v1/things/n?numbers=1&numbers=2&floats=1.5&floats=2.5&texts=a%26b&texts=", None),
    ("GET", "/v1/things/n?child.tags=x&child.tags=y&child.child.name=z&child.size=0", None),
    ("GET", "/v1/things/n?note=hey&maybe=false&perhaps=0", None),
    ("GET", "/v1/things/n?at=2020-01-01T00:00:00.5Z&took=1.5s", None),
    ("GET", "/v1/things/n?word=w", None),
    ("GET", "/v1/things/n?user=%C3%A9", None),
    ("GET", "/v1/things/n?nope=1", None),
    ("GET", "/v1/things/n?child.nope=1", None),
    ("GET", "/v1/things/n?number=x", None),
    ("GET", "/v1/things/n?number=2147483648", None),
    ("GET", "/v1/things/n?colour=GREEN", None),
    ("GET", "/v1/things/n?data=%25", None),
    ("GET", "/v1/things/n?scores=b", None),
    ("GET", "/v1/things/n?child=b", None),
    ("GET", "/v1/things/n?word=b&person.name=c", None),
    ("GET", "/v1/things/n?at=yesterday", None),
    ("PUT", "/v1/things/a?number=3", {"name": "c", "tags": ["x"]}),
    ("PUT", "/v1/things/a?child.name=3", {"name": "c"}),
    ("PATCH", "/v1/things/a", [1, 2, 3]),
    ("POST", "/v1/things", b""),
    ("POST", "/v1/things", {"name": None, "child": None}),
    (
        "POST",
        "/v1/things",
        {
            "name": "é🐈",
            "big_number": "-123",
            "count": 4294967295,
            "ratio": 0.1,
            "weight": 1e300,
            "data": "aGk",
            "colour": 1,
            "child": {"child": {"size": 3}},
            "children": [{"name": "a"}, {}],
            "scores": {"a": 1},
            "note": "n",
            "at": "2020-01-01T00:00:00.5Z",
            "took": "1.5s",
            "extra": {"a": [1, None, "x"]},
            "perhaps": 0,
            "person": {"name": "q"},
            "blobs": ["", "_-8"],
            "floats": [0.5, 1e-7, 16777216, 3.4e38],
        },
    ),
    ("POST", "/v1/things", {"ratio": "NaN", "weight": "-Infinity", "number": "7", "count": 3.0}),
    ("POST", "/v1/things", b"{"),
    ("POST", "/v1/things", b"[1]"),
    ("POST", "/v1/things", {"data": "***"}),
    ("POST", "/v1/things", {"number": "x"}),
    ("POST", "/v1/things", {"number": 1.5}),
    ("POST", "/v1/things", {"number": 2147483648}),
    ("POST", "/v1/things", {"ratio": 1e40}),
    ("POST", "/v1/things", {"word": "a", "person": {}}),
    ("POST", "/v1/things", {"child": []}),
    ("POST", "/v1/shelves/1:check", {"user": "u"}),
    ("POST", "/v1/shelves/1:check", {"name": "shelves/1"}),
    ("POST", "/v1/shelves/1:check", {"name": "shelves/2"}),
    ("LOCK", "/v1/things/a", None),
    *[("POST", "/v1/fail", {"code": code, "message": "m é"}) for code in range(1, 17)],
    ("POST", "/v1/fail", {"code": 3, "message": "m", "detailed": True}),
    ("GET", "/v1/stream?messages=0", None),
    ("GET", "/v1/stream?messages=3&failAfter=0", None),
    ("GET", "/v1/raw:stream?messages=3&size=2", None),
    ("GET", "/v1/raw:stream?messages=0", None),
    ("POST", "/v1/raw/n?note=x", b"\x00\xff"),
    ("POST", "/v1/raw", b"\x00\xff"),
    ("POST", "/v1/raw", b""),
    ("POST", "/v1/upload/n", b""),
]

# What differs on purpose: (reason, our status, Envoy's status, requests). docs/rest.md repeats the reasons.
DIFFERENCES: list[tuple[str, int, int, list[Case]]] = [
    ("A wrong method is 405 with Allow", 405, 404, [("DELETE", "/v1/things/a", None), ("GET", "/v1/things", None)]),
    ("A slash at the end is another path", 404, 200, [("GET", "/v1/things/a/", None)]),
    (
        "A verb of another route is a part of the segment where that route does not fit",
        200,
        404,
        [("GET", "/v1/things/a:check", None)],
    ),
    ("Malformed percent-escapes are refused", 400, 200, [("GET", "/v1/things/%zz", None)]),
    ("Bytes that are not UTF-8 are refused before the server sees them", 400, 500, [("GET", "/v1/things/%ff", None)]),
    ("One value given twice is refused", 400, 200, [("GET", "/v1/things/a?number=1&number=2", None)]),
    ("Truth values are true, false, 1 and 0 alone", 400, 200, [("GET", "/v1/things/a?flag=yes", None)]),
    ("JSON truth values are not strings", 400, 200, [("POST", "/v1/things", {"flag": "true"})]),
    ("The path is not overruled by the query", 400, 200, [("GET", "/v1/things/a?name=b", None)]),
    ("Repeated messages have no query form", 400, 200, [("GET", "/v1/things/a?children.name=b", None)]),
    (
        "Where the body is the whole request there is no query",
        400,
        200,
        [("POST", "/v1/things?number=3", {"name": "x"})],
    ),
    (
        "Unknown fields are refused in bodies as in queries",
        400,
        200,
        [("POST", "/v1/things", {"nope": 1}), ("PUT", "/v1/things/a", {"nope": 1})],
    ),
    (
        "A field given under both its names, or a key given twice, is refused",
        400,
        200,
        [("POST", "/v1/things", {"bigNumber": 1, "big_number": 2}), ("POST", "/v1/things", b'{"name":"a","name":"b"}')],
    ),
    ("A body where the rule has none is refused", 400, 200, [("GET", "/v1/things/a", {})]),
]


@pytest.fixture(scope="module")
def both(
    shared_echo: EchoServer, echo_contract: Contract, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[httpx.Client, httpx.Client]]:
    """Clients of the gateway and of Envoy, over one server."""
    directory: Path = tmp_path_factory.mktemp("envoy")
    descriptors = for_envoy(echo_contract.descriptor_set)
    settings = GatewaySettings(server_address=shared_echo.address)
    with (
        GatewayThread(settings, echo_contract) as gateway,
        envoy(directory, descriptors, ["echo.v1.Echo"], shared_echo.port) as url,
        httpx.Client(base_url=gateway.url, timeout=PATIENCE_S) as ours,
        httpx.Client(base_url=url, timeout=PATIENCE_S) as theirs,
    ):
        yield ours, theirs


def ask(client: httpx.Client, case: Case) -> httpx.Response:
    """Sends one request."""
    method, path, body = case
    if body is None or isinstance(body, bytes):
        return client.request(method, path, content=body, headers={"content-type": "image/png"} if body else {})
    return client.request(method, path, json=body)


def content(answer: httpx.Response) -> Any:
    """What can be compared: JSON as values, everything else as bytes. Envoy's own refusals are plain text."""
    if answer.headers["content-type"] == "text/plain":
        return None
    return answer.json() if answer.headers["content-type"] == "application/json" and answer.content else answer.content


@pytest.mark.parametrize("case", SAME, ids=lambda case: f"{case[0]} {case[1]} {str(case[2])[:40]}")
def test_same(both: tuple[httpx.Client, httpx.Client], case: Case):
    """The same request has the same status, the same JSON, the same bytes, the same content type."""
    ours, theirs = (ask(client, case) for client in both)
    assert ours.status_code == theirs.status_code, (ours.text, theirs.text)
    if content(theirs) is not None:
        assert content(ours) == content(theirs)
    if ours.status_code == 200 and ours.content:
        assert ours.headers["content-type"] == theirs.headers["content-type"]


@pytest.mark.parametrize(("reason", "ours", "theirs", "cases"), DIFFERENCES, ids=[row[0] for row in DIFFERENCES])
def test_different_on_purpose(
    both: tuple[httpx.Client, httpx.Client], reason: str, ours: int, theirs: int, cases: list[Case]
):
    """Each difference is there, as it was meant, on both sides."""
    for case in cases:
        assert [ask(client, case).status_code for client in both] == [ours, theirs], reason


def test_client_streams_are_cut_alike(both: tuple[httpx.Client, httpx.Client]):
    """Both put path, query and type into the first message alone, and at most 1 MiB into each."""
    for answer in (ask(client, ("POST", "/v1/upload/n?note=x", b"\x01" * (2 * MIB + 5))) for client in both):
        (name, note, content_type, size, _), *others = [json.loads(text) for text in answer.json()["texts"]]
        assert (name, note, content_type) == ("n", "x", "image/png")
        assert all(other[:3] == ["", "", ""] and other[3] <= MIB for other in others)
        assert size + sum(other[3] for other in others) == 2 * MIB + 5


def test_plus_is_a_space_in_queries(both: tuple[httpx.Client, httpx.Client]):
    """Forms write a space as `+`; Envoy leaves it."""
    texts = [client.get("/v1/things/a?user=b+c%2B").json()["user"] for client in both]
    assert texts == ["b c+", "b+c+"]


def test_an_empty_body_leaves_its_field_unset(both: tuple[httpx.Client, httpx.Client]):
    """No body is no message; Envoy makes an empty one of it."""
    answers = [client.put("/v1/things/a").json() for client in both]
    assert ["child" in answer for answer in answers] == [False, True]


def test_response_body_is_applied(both: tuple[httpx.Client, httpx.Client]):
    """Envoy knows no response_body but for HttpBody; what it answers has in the field what we answer."""
    for path, sent, field in [("child", {"child": {"name": "a"}}, "child"), ("list", {"texts": ["a"]}, "texts")]:
        ours, theirs = (client.post(f"/v1/answers/{path}", json=sent).json() for client in both)
        assert ours == theirs[field]


def test_stream_lines_are_wrapped(both: tuple[httpx.Client, httpx.Client]):
    """Lines are {"result": ...}, and the error that ends a stream is one of them; Envoy drops it."""
    ours, theirs = (client.get("/v1/stream?messages=3&size=2&failAfter=2") for client in both)
    assert (ours.headers["content-type"], theirs.headers["content-type"]) == (
        "application/x-ndjson",
        "application/json",
    )
    *lines, error = [json.loads(line) for line in ours.text.splitlines()]
    assert [line["result"] for line in lines] == [json.loads(line) for line in theirs.text.splitlines()]
    assert error["error"]["code"] == 10


def test_a_broken_raw_stream_is_seen(both: tuple[httpx.Client, httpx.Client]):
    """A raw stream that fails breaks off; from Envoy the part looks like the whole."""
    path = "/v1/raw:stream?messages=3&size=2&failAfter=2"
    with pytest.raises(httpx.RemoteProtocolError):
        both[0].get(path)
    assert both[1].get(path).content == b"\x00\x00\x01\x01"


def test_unknown_details_keep_the_rest(both: tuple[httpx.Client, httpx.Client]):
    """A detail of an unknown type is given in base64; Envoy answers no JSON at all then."""
    sent = {"code": 3, "message": "m", "detailed": True, "unknownDetail": True}
    ours, theirs = (client.post("/v1/fail", json=sent) for client in both)
    assert (ours.status_code, theirs.status_code) == (400, 400)
    assert len(ours.json()["details"]) == 4
    assert theirs.content == b""


def test_every_difference_is_documented():
    """docs/rest.md lists every reason."""
    page = (HERE.parent / "docs" / "rest.md").read_text()
    assert [reason for reason, *_ in DIFFERENCES if reason not in page] == []
