"""HTTP in, messages out and back, through a real gRPC server."""

import base64
import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from cutout_gateway.descriptors import Contract
from cutout_gateway.errors import HttpError
from cutout_gateway.protojson import parse_json
from cutout_gateway.settings import MIB, GatewaySettings
from gateway_fixtures import HERE, EchoServer, GatewayThread, compile_protos
from hypothesis import given, settings
from hypothesis import strategies as st
from waiting import PATIENCE_S

DEFAULTS = {
    "name": "",
    "user": "",
    "number": 0,
    "bigNumber": "0",
    "count": 0,
    "ratio": 0,
    "weight": 0,
    "flag": False,
    "data": "",
    "colour": "COLOUR_UNSPECIFIED",
    "numbers": [],
    "texts": [],
    "floats": [],
    "children": [],
    "scores": {},
    "colours": [],
    "blobs": [],
}
CHILD = {"name": "", "tags": [], "data": "", "size": 0}


@pytest.fixture(scope="module")
def contract(tmp_path_factory: pytest.TempPathFactory) -> Contract:
    return Contract(compile_protos(tmp_path_factory.mktemp("echo"), HERE / "gateway_echo.proto"))


@pytest.fixture(scope="module")
def rest(contract: Contract) -> Iterator[httpx.Client]:
    server = EchoServer(contract)
    gateway_settings = GatewaySettings(server_address=server.address, max_body_bytes=4 * MIB, max_upload_bytes=8 * MIB)
    with (
        GatewayThread(gateway_settings, contract) as gateway,
        httpx.Client(base_url=gateway.url, timeout=PATIENCE_S) as client,
    ):
        yield client
    server.stop()


def encoded(body: Any) -> bytes | None:
    """A request's body: bytes and None as they are, everything else as JSON."""
    return body if body is None or isinstance(body, bytes) else json.dumps(body).encode()


def thing(**values: Any) -> dict[str, Any]:
    """The JSON of a Thing with these fields."""
    return DEFAULTS | values


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


def assert_refused(answer: httpx.Response, field: str) -> str:
    """The answer is 400 with one BadRequest violation, of this field; returns its description."""
    assert answer.status_code == 400, answer.text
    body = answer.json()
    assert body["code"] == 3
    info, bad_request, _, request = body["details"]
    assert request["requestId"] == answer.headers["x-request-id"]
    assert (info["reason"], info["domain"]) == ("INVALID_ARGUMENT", "cutout")
    [violation] = bad_request["fieldViolations"]
    assert bad_request["@type"] == "type.googleapis.com/google.rpc.BadRequest"
    assert violation["field"] == field
    assert len(violation["description"]) < 600
    return violation["description"]


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


def test_forms_of_many_parts_are_refused(rest: httpx.Client):
    """The number of a form's parts is bounded."""
    answer = rest.post("/v1/things", files=[("texts", (None, b"x"))] * 10_001)
    assert "parts" in assert_refused(answer, "body")


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


def test_a_form_sets_fields_by_their_paths(rest: httpx.Client):
    """multipart/form-data: files into bytes, texts into scalars, JSON into messages, several parts into lists."""
    blob = bytes(range(256))
    parts = [
        ("data", ("cat.jpg", blob, "image/jpeg")),
        ("child.data", ("x", b"", "image/jpeg")),
        ("blobs", ("a", b"a")),
        ("blobs", ("b", b"b")),
        ("texts", (None, "cat é".encode())),
        ("texts", (None, b"dog")),
        ("number", (None, b"3")),
        ("child.name", (None, b"c")),
        ("children", (None, b'{"size": 1}')),
        ("children", (None, b'{"name": "z"}', "application/json")),
        ("bigNumber", (None, b"4")),
        ("extra", (None, b'{"a": 1}')),
    ]
    answer = rest.post("/v1/things", files=parts)
    assert answer.status_code == 200, answer.text
    assert answer.json() == thing(
        data=base64.b64encode(blob).decode(),
        child=CHILD | {"name": "c"},
        blobs=["YQ==", "Yg=="],
        texts=["cat é", "dog"],
        number=3,
        children=[CHILD | {"size": 1}, CHILD | {"name": "z"}],
        bigNumber="4",
        extra={"a": 1},
    )


def test_a_form_fills_raw_bodies(rest: httpx.Client):
    """A part for an HttpBody is its bytes and its type, in one message or in a stream of them."""
    parts = {"body": ("cat.jpg", b"abc", "image/jpeg"), "note": (None, b"x")}
    answer = rest.post("/v1/raw/n", files=parts)
    assert (answer.content, answer.headers["content-type"]) == (b"abc", "image/jpeg")
    parts["body"] = ("cat.jpg", b"\x01" * (MIB + 1), "image/jpeg")
    texts = rest.post("/v1/upload/n", files=parts).json()["texts"]
    assert [json.loads(text) for text in texts] == [["n", "x", "image/jpeg", MIB, MIB], ["", "", "", 1, 1]]


def test_blank_fields_of_a_form_are_not_set(rest: httpx.Client):
    """Pages send every field of a form; what was left blank is as if it were not there, also in a oneof."""
    blank = ["word", "person.name", "person.data", "number", "flag", "colour", "perhaps", "numbers", "data", "at"]
    parts = [("name", (None, b"n")), *((name, (None, b"")) for name in blank), ("blobs", ("", b""))]
    assert rest.post("/v1/things", files=parts).json() == thing(name="n")
    assert_refused(rest.post("/v1/things", files=[("nope", (None, b""))]), "nope")


@pytest.mark.parametrize(
    ("parts", "field"),
    [
        ([("nope", (None, b"1"))], "nope"),
        ([("number", (None, b"x"))], "number"),
        ([("number", (None, b"1")), ("number", (None, b"2"))], "number"),
        ([("data", (None, b"1")), ("data", (None, b"2"))], "data"),
        ([("name", (None, b"\xff"))], "name"),
        ([("child", (None, b"{"))], "child"),
        ([("children", (None, b'{"nope": 1}'))], "children[0].nope"),
        ([("word", (None, b"1")), ("person.name", (None, b"2"))], "person"),
        ([("word", (None, b"1")), ("person.data", (None, b"2"))], "person"),
    ],
)
def test_bad_forms_are_named(rest: httpx.Client, parts: list[Any], field: str):
    """A part that cannot be its field is refused by name."""
    assert_refused(rest.post("/v1/things", files=parts), field)


@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        ("multipart/form-data", b"--x\r\n\r\n"),
        ("multipart/form-data; boundary=x", b"no form at all"),
        ("multipart/form-data; boundary=x", b'--x\r\nContent-Disposition: form-data; name="name"\r\n\r\nabc'),
        ("multipart/form-data; boundary=" + "x" * 5000, b""),
    ],
)
def test_broken_forms_are_refused(rest: httpx.Client, content_type: str, body: bytes):
    """A form without boundary, beginning or end is refused, not read as far as it goes."""
    answer = rest.post("/v1/things", content=body, headers={"content-type": content_type})
    assert answer.status_code == 400
    assert "multipart/form-data" in answer.json()["message"]


def test_a_form_and_a_query_cannot_set_one_field(rest: httpx.Client):
    """A field that the form gives is refused in the query."""
    answer = rest.post("/v1/raw/n?note=a", files={"note": (None, b"b")})
    assert_refused(answer, "note")


def test_compressed_bodies_are_refused(rest: httpx.Client):
    """Content-Encoding is 415: the gateway inflates nothing."""
    answer = rest.post("/v1/things", content=b"\x1f\x8b", headers={"content-encoding": "gzip"})
    assert answer.status_code == 415
    assert answer.json()["details"][0]["reason"] == "UNSUPPORTED_MEDIA_TYPE"
