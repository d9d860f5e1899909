"""What is no message: refused over HTTP by the name of the field that is wrong."""

# ruff: noqa: F811 - fixtures are imported

from typing import Any

import httpx
import pytest
from cutout_gateway.descriptors import Contract
from cutout_gateway.errors import HttpError
from cutout_gateway.protojson import parse_json
from cutout_gateway.settings import MIB
from hypothesis import given, settings
from hypothesis import strategies as st
from things import DEFAULTS, assert_refused, contract, encoded, rest  # noqa: F401 - fixtures

BAD_QUERIES = [
    ("nope=1", "nope"),
    ("child.nope=1", "child.nope"),
    ("name.x=1", "name.x"),
    ("number=x", "number"),
    ("number=1.5", "number"),
    ("number=2147483648", "number"),
    ("count=-1", "count"),
    ("number=", "number"),
    ("number=1&number=2", "number"),
    ("bigNumber=1&big_number=2", "big_number"),
    ("flag=yes", "flag"),
    ("maybe=yes", "maybe"),
    ("ratio=x", "ratio"),
    ("ratio=1e40", "ratio"),
    ("colour=GREEN", "colour"),
    ("data=%25", "data"),
    ("data=a", "data"),
    ("blobs=aGk&blobs=!", "blobs[1]"),
    ("numbers=1&numbers=x", "numbers[1]"),
    ("child.size=x", "child.size"),
    ("child=x", "child"),
    ("children.name=x", "children.name"),
    ("children=x", "children"),
    ("scores=x", "scores"),
    ("scores.a=1", "scores.a"),
    ("extra=x", "extra"),
    ("at=yesterday", "at"),
    ("took=1", "took"),
    ("word=a&person.name=b", "person"),
    ("person.name=b&word=a", "word"),
    ("name=other", "name"),
    ("user=%zz", "query"),
    ("user=%ff", "query"),
    ("=1", ""),
]


@pytest.mark.parametrize(("query", "field"), BAD_QUERIES)
def test_bad_query_parameters_are_named(rest: httpx.Client, query: str, field: str):
    """What cannot be read is refused with the field's name; nothing is dropped or guessed."""
    answer = rest.get(f"/v1/things/n?{query}")
    assert_refused(answer, field)


BAD_BODIES = [
    (b"{", "body"),
    (b"\xff", "body"),
    (b'{"number": NaN}', "body"),
    (b'{"name": "a", "name": "b"}', "body"),
    (b"[" * 100_000, "body"),
    (b"1" * 5000, "body"),
    (b"[]", "body"),
    (b'"x"', "body"),
    (b"null", "body"),
    (b'{"nope": 1}', "nope"),
    (b'{"child": {"nope": 1}}', "child.nope"),
    (b'{"children": [{}, {"size": "x"}]}', "children[1].size"),
    (b'{"children": {"name": "x"}}', "children"),
    (b'{"children": [null]}', "children[0]"),
    (b'{"child": []}', "child"),
    (b'{"number": "x"}', "number"),
    (b'{"number": 1.5}', "number"),
    (b'{"number": 2147483648}', "number"),
    (b'{"number": true}', "number"),
    (b'{"flag": "true"}', "flag"),
    (b'{"name": 5}', "name"),
    (b'{"ratio": 1e40}', "ratio"),
    (b'{"colour": "GREEN"}', "colour"),
    (b'{"data": "***"}', "data"),
    (b'{"data": "a"}', "data"),
    (b'{"data": "aG\\nk="}', "data"),
    (b'{"data": 5}', "data"),
    (b'{"child": {"child": {"data": "\\u00e9"}}}', "child.child.data"),
    (b'{"blobs": ["aGk", "%"]}', "blobs[1]"),
    (b'{"at": "yesterday"}', "at"),
    (b'{"bigNumber": 1, "big_number": 2}', "big_number"),
    (b'{"word": "a", "person": {}}', "body"),
    (b'{"scores": {"a": "x"}}', "scores['a']"),
]


@pytest.mark.parametrize(("body", "field"), BAD_BODIES)
def test_bad_bodies_are_named(rest: httpx.Client, body: bytes, field: str):
    """A body that cannot be read is refused with the path of what is wrong in it."""
    assert_refused(rest.post("/v1/things", content=body), field)


@pytest.mark.parametrize("depth", [101, 400, 900, 967, 980, 20_000])
def test_deep_bodies_are_refused(rest: httpx.Client, depth: int):
    """Messages inside messages end at a hundred, whatever Python's stack holds."""
    body = b'{"child":' * depth + b"{}" + b"}" * depth
    assert rest.post("/v1/things", content=body).status_code == 400
    assert "deep" in assert_refused(
        rest.post("/v1/things", content=b'{"numbers":' + b"[" * depth + b"]" * depth + b"}"), "body"
    )
    assert rest.post("/v1/things", content=b'{"child":' * 90 + b"{}" + b"}" * 90).status_code == 200


@pytest.mark.parametrize("element", [b"{}", b"0"])
def test_bodies_of_too_many_values_are_refused(rest: httpx.Client, element: bytes):
    """Two bytes of JSON can be hundreds in memory: what is sent is counted before it is read."""
    name = b"children" if element == b"{}" else b"numbers"
    answer = rest.post("/v1/things", content=b'{"%s":[%s]}' % (name, b",".join([element] * 65_537)))
    assert "values" in assert_refused(answer, "body")


def test_the_fault_in_a_long_list_is_found(rest: httpx.Client):
    """The wrong element of tens of thousands is named."""
    answer = rest.post("/v1/things", json={"numbers": [0] * 59_999 + ["x"]})
    assert_refused(answer, "numbers[59999]")


@pytest.mark.parametrize("where", ["name", "note", "nope"])
def test_half_of_a_surrogate_pair_is_refused(rest: httpx.Client, where: str):
    """Text that no UTF-8 can hold is refused, as a value and as a key, in JSON and in the JSON of a form."""
    for body in (f'{{"{where}": "a\\ud800b"}}', f'{{"\\udfff{where}": 1}}'):
        assert "surrogate" in assert_refused(rest.post("/v1/things", content=body.encode()), "body")
        form = rest.post("/v1/things", files={"child": (None, body.encode())})
        assert "surrogate" in assert_refused(form, "child")
    whole = rest.post("/v1/things", content=b'{"name": "a\\ud83d\\ude00b"}')
    assert whole.json()["name"] == "a\U0001f600b"


def test_a_huge_bad_value_is_not_sent_back(rest: httpx.Client):
    """An error quotes the beginning of what was wrong, not a megabyte of it."""
    answer = rest.post("/v1/things", json={"data": "*" * MIB})
    assert_refused(answer, "data")
    assert len(answer.content) < 2000


@pytest.mark.parametrize(
    ("method", "path", "body", "field"),
    [
        ("POST", "/v1/things?number=3", {}, "number"),
        ("PUT", "/v1/things/a?child.name=c", {}, "child.name"),
        ("POST", "/v1/shelves/1:check", {"name": "shelves/2"}, "name"),
        ("GET", "/v1/things/a", {}, "body"),
        ("PUT", "/v1/things/a", {"nope": 1}, "child.nope"),
        ("PATCH", "/v1/things/a", [1, "x"], "numbers[1]"),
        ("GET", "/v1/nested/n/x/COLOUR_RED/true", None, "number"),
        ("GET", "/v1/nested/n/1/GREEN/true", None, "colour"),
        ("GET", "/v1/nested/n/1/COLOUR_RED/perhaps", None, "flag"),
        ("GET", "/v1/things/%ff", None, "path"),
    ],
)
def test_values_in_the_wrong_place_are_refused(rest: httpx.Client, method: str, path: str, body: Any, field: str):
    """What the rule has no place for is refused: nothing that a caller sent is left out in silence."""
    assert_refused(rest.request(method, path, content=encoded(body)), field)


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(["aGk=", "1s", "NaN"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from([*DEFAULTS, "child", "person", "extra", "at", "took", "note", "x"]), inner)
    ),
    max_leaves=12,
)


@given(value=json_values)
@settings(max_examples=300, deadline=None)
@pytest.mark.slow
def test_any_json_is_read_or_refused(contract: Contract, value: Any):
    """Whatever JSON comes, it is either a message or an error that names a field; nothing else is raised."""
    refused = None
    try:
        parse_json(value, contract.message("echo.v1.Thing"))
    except HttpError as error:
        refused = error
    assert refused is None or (refused.http_status == 400 and refused.status.details)


def test_compressed_bodies_are_refused(rest: httpx.Client):
    """Content-Encoding is 415: the gateway inflates nothing."""
    answer = rest.post("/v1/things", content=b"\x1f\x8b", headers={"content-encoding": "gzip"})
    assert answer.status_code == 415
    assert answer.json()["details"][0]["reason"] == "UNSUPPORTED_MEDIA_TYPE"
