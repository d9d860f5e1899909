"""HTTP in, messages out and back, through a real gRPC server."""

# ruff: noqa: F811 - fixtures are imported

import base64
import json
from typing import Any

import httpx
import pytest
from cutout_gateway.settings import MIB
from things import CHILD, contract, encoded, rest, thing  # noqa: F401 - fixtures

QUERIES = [
    ("number=-3&count=4&bigNumber=5", {"number": -3, "count": 4, "bigNumber": "5"}),
    ("big_number=9007199254740993", {"bigNumber": "9007199254740993"}),
    ("ratio=0.1&weight=1e300", {"ratio": 0.1, "weight": 1e300}),
    ("ratio=NaN&weight=-Infinity", {"ratio": "NaN", "weight": "-Infinity"}),
    ("flag=true", {"flag": True}),
    ("flag=1", {"flag": True}),
    ("flag=false", {}),
    ("data=aGk%3D", {"data": "aGk="}),
    ("data=_-8", {"data": "/+8="}),
    ("colour=COLOUR_RED", {"colour": "COLOUR_RED"}),
    ("colour=2", {"colour": "COLOUR_BLUE"}),
    ("colours=1&colours=COLOUR_BLUE", {"colours": ["COLOUR_RED", "COLOUR_BLUE"]}),
    ("numbers=1&numbers=2", {"numbers": [1, 2]}),
    ("floats=1.5&floats=2.5", {"floats": [1.5, 2.5]}),
    ("floats=1.5", {"floats": [1.5]}),
    ("blobs=aGk&blobs=", {"blobs": ["aGk=", ""]}),
    ("texts=a%26b&texts=&texts=c+d%2B", {"texts": ["a&b", "", "c d+"]}),
    ("child.name=c&child.child.size=2", {"child": CHILD | {"name": "c", "child": CHILD | {"size": 2}}}),
    ("child.tags=x&child.tags=y", {"child": CHILD | {"tags": ["x", "y"]}}),
    ("child.size=0", {"child": CHILD}),
    ("note=hey&maybe=false", {"note": "hey", "maybe": False}),
    ("note=", {"note": ""}),
    ("at=2020-01-01T00:00:00.5Z&took=1.5s", {"at": "2020-01-01T00:00:00.500Z", "took": "1.500s"}),
    ("perhaps=0", {"perhaps": 0}),
    ("word=w", {"word": "w"}),
    ("person.name=p", {"person": CHILD | {"name": "p"}}),
    ("user=%C3%A9%F0%9F%90%88", {"user": "é🐈"}),
    ("user", {}),
    ("&&user=a&", {"user": "a"}),
]


@pytest.mark.parametrize(("query", "expected"), QUERIES)
def test_query_parameters(rest: httpx.Client, query: str, expected: dict[str, Any]):
    """A query sets fields of every kind, by either name, nested and repeated."""
    answer = rest.get(f"/v1/things/n?{query}")
    assert answer.status_code == 200, answer.text
    assert answer.json() == thing(name="n", **expected)


@pytest.mark.parametrize(
    ("method", "path", "body", "expected"),
    [
        ("GET", "/v1/things/a%20b%2Fc", None, thing(name="a b/c")),
        ("GET", "/v1/users/u/things/n", None, thing(name="n", user="u")),
        ("GET", "/v1/shelves/1/books/2/3%2F4", None, thing(name="shelves/1/books/2/3%2F4")),
        ("GET", "/v1/shelves/1/books", None, thing(name="shelves/1/books")),
        ("GET", "/v1/files/a/b", None, thing(name="a/b")),
        ("GET", "/v1/files/special", None, thing()),
        (
            "GET",
            "/v1/nested/n/7/COLOUR_BLUE/true",
            None,
            thing(child=CHILD | {"name": "n"}, number=7, colour="COLOUR_BLUE", flag=True),
        ),
        ("POST", "/v1/shelves/1:check", {"user": "u"}, thing(name="shelves/1", user="u")),
        ("POST", "/v1/shelves/1:check", {"name": "shelves/1"}, thing(name="shelves/1")),
        ("LOCK", "/v1/things/a", None, thing(name="a")),
        ("PUT", "/v1/things/a?number=3", {"tags": ["x"]}, thing(name="a", number=3, child=CHILD | {"tags": ["x"]})),
        ("PUT", "/v1/things/a", b"", thing(name="a")),
        ("PATCH", "/v1/things/a", [1, 2], thing(name="a", numbers=[1, 2])),
        ("POST", "/v1/things", b"", thing()),
        ("POST", "/v1/things", {"bigNumber": 3, "child": None}, thing(bigNumber="3")),
        ("POST", "/v1/answers/child", {"child": {"name": "c"}}, CHILD | {"name": "c"}),
        ("POST", "/v1/answers/child", {}, CHILD),
        ("POST", "/v1/answers/list", {"texts": ["a"]}, ["a"]),
        ("POST", "/v1/answers/list", {}, []),
    ],
)
def test_bindings(rest: httpx.Client, method: str, path: str, body: Any, expected: Any):
    """Path, query and body each set what the rule says; `response_body` picks what answers."""
    answer = rest.request(method, path, content=encoded(body))
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "application/json"
    assert answer.json() == expected


def test_json_of_every_kind(rest: httpx.Client):
    """ProtoJSON goes in and comes out: enums, 64-bit numbers, bytes, maps, wrappers, times, structs, oneofs."""
    sent = {
        "name": "é🐈",
        "big_number": "-9007199254740993",
        "count": 4294967295,
        "ratio": 0.1,
        "data": base64.b64encode(bytes(range(256))).decode(),
        "colour": 1,
        "child": {"child": {"child": {"name": "deep"}}},
        "children": [{"name": "a"}, {}],
        "scores": {"a": 1, "b": -2},
        "note": "n",
        "at": "2020-01-01T00:00:00.5Z",
        "took": "1.5s",
        "extra": {"a": [1, None, "x", {"b": True}]},
        "perhaps": 0,
        "person": {"size": 2.5},
    }
    answer = rest.post("/v1/things", json=sent).json()
    assert answer["bigNumber"] == "-9007199254740993"
    assert answer["colour"] == "COLOUR_RED"
    assert answer["child"]["child"]["child"]["name"] == "deep"
    assert answer["person"] == CHILD | {"size": 2.5}
    for same in ("name", "count", "ratio", "data", "scores", "note", "extra", "perhaps"):
        assert answer[same] == sent[same]


def test_raw_bodies(rest: httpx.Client):
    """An HttpBody goes in and out as bytes with its content type, beside fields from path and query."""
    content = bytes(range(256)) * 4000
    for path in ("/v1/raw/n?note=x", "/v1/raw"):
        answer = rest.post(path, content=content, headers={"content-type": "image/png"})
        assert answer.status_code == 200
        assert answer.headers["content-type"] == "image/png"
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.content == content
    assert rest.post("/v1/raw").headers["content-type"] == "application/octet-stream"


def test_a_client_stream_is_cut_into_messages(rest: httpx.Client):
    """A long body becomes messages of 1 MiB; path, query and content type are in the first of them alone."""
    content = b"\x01" * (2 * MIB + 5)
    answer = rest.post("/v1/upload/n?note=x", content=content, headers={"content-type": "image/png"})
    messages = [json.loads(text) for text in answer.json()["texts"]]
    assert messages == [["n", "x", "image/png", MIB, MIB], ["", "", "", MIB, MIB], ["", "", "", 5, 5]]


def test_a_client_stream_of_nothing_is_one_message(rest: httpx.Client):
    """An upload without a body still tells the server what the path says."""
    assert [json.loads(text) for text in rest.post("/v1/upload/n").json()["texts"]] == [["n", "", "", 0, 0]]
