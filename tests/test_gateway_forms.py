"""Forms in, messages out, through a real gRPC server."""

# ruff: noqa: F811 - fixtures are imported

import base64
import json
from typing import Any

import httpx
import pytest
from cutout_gateway.settings import MIB
from things import CHILD, assert_refused, contract, rest, thing  # noqa: F401 - fixtures


def test_forms_of_many_parts_are_refused(rest: httpx.Client):
    """The number of a form's parts is bounded."""
    answer = rest.post("/v1/things", files=[("texts", (None, b"x"))] * 10_001)
    assert "parts" in assert_refused(answer, "body")


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
