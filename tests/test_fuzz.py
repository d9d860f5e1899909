"""Made-up requests by the thousand: each is read, or refused in the caller's own terms, and none is a fault of ours."""

import json
import random
from contextlib import suppress

import grpc
import pytest
from conftest import RunningServer
from cutout_gateway.descriptors import Contract
from cutout_gateway.errors import HttpError
from cutout_gateway.request_reader import _read
from cutout_gateway.routes import Binding, Routes
from cutout_gateway.transcode import Payload, parse_query
from fuzzing import FEW, PICTURES, WORDS, json_values, messages
from google.protobuf.message_factory import GetMessageClass
from hypothesis import given, settings
from hypothesis import strategies as st
from waiting import PATIENCE_S

CONTRACT = Contract.load()
BINDINGS = [binding for binding in Routes(CONTRACT).bindings if binding.takes_body]
READ = settings(FEW, max_examples=5 * FEW.max_examples)
FAULTS = {grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN, grpc.StatusCode.DEADLINE_EXCEEDED}


def read(binding: Binding, data: bytes, content_type: str, query: str = "") -> int:
    """Reads a request as the gateway does; 200, or the status of the refusal."""
    try:
        request = _read(binding, {}, parse_query(query), Payload(data, content_type))
    except HttpError as refused:
        return refused.http_status
    GetMessageClass(binding.rpc.input).FromString(request.data)
    return 200


@st.composite
def damaged(draw: st.DrawFn, whole: bytes) -> bytes:
    """Bytes as they are, or cut short, or with some of them changed."""
    chance: random.Random = draw(st.randoms(use_true_random=False))
    changed = bytearray(whole)
    for _ in range(draw(st.sampled_from([0, 0, 1, 4]))):
        if changed:
            changed[chance.randrange(len(changed))] = chance.choice(b'"{}[],:\\\x00\xff\r\n-=e9')
    return bytes(changed[: draw(st.integers(0, len(changed)))] if draw(st.booleans()) else changed)


@READ
@given(st.data(), st.sampled_from(BINDINGS))
def test_json_bodies(data: st.DataObject, binding: Binding):
    """Fields in wrong places, of wrong kinds, twice, damaged text."""
    text = json.dumps(data.draw(json_values(binding.rpc.input)), ensure_ascii=data.draw(st.booleans()))
    assert read(binding, data.draw(damaged(text.encode())), "application/json") in {200, 400}


@READ
@given(st.data(), st.sampled_from(BINDINGS))
def test_forms(data: st.DataObject, binding: Binding):
    """Parts for fields that there are and are not, with headers that are none, and damage at the boundaries."""
    paths = [field.name for field in binding.rpc.input.fields]
    paths += ["image.content", "options.overlay", "picture", "a.b.c", "", "boxes", "image", "é"]
    parts = []
    for name in data.draw(st.lists(st.sampled_from(paths), max_size=5)):
        header = data.draw(st.sampled_from(["form-data", "attachment", "form-data; filename=x", "", ';;;="\\']))
        extra = data.draw(st.sampled_from([b"", b"Content-Type: image/png\r\n", b"content-type:\r\n", b"X: \xff\r\n"]))
        value = data.draw(st.sampled_from([*PICTURES, *(word.encode() for word in WORDS), b"[1]", b"{", b'{"a":1}']))
        disposition = f'Content-Disposition: {header}; name="{name}"\r\n'.encode()
        parts.append(b"--b\r\n" + disposition + extra + b"\r\n" + value + b"\r\n")
    body = data.draw(damaged(b"".join(parts) + b"--b--\r\n"))
    kind = data.draw(st.sampled_from(["; boundary=b", "", "; boundary=", '; boundary="b"', "; boundary=" + "b" * 99]))
    assert read(binding, body, f"multipart/form-data{kind}") in {200, 400}


@READ
@given(st.sampled_from(Routes(CONTRACT).bindings), st.text(st.characters(codec="ascii"), max_size=60), st.data())
def test_queries(binding: Binding, text: str, data: st.DataObject):
    """Names that are fields and values that are not, escapes that are none."""
    names = [field.json_name for field in binding.rpc.input.fields] + ["image.content", "options.overlay", "x"]
    values = [*WORDS, "NaN", "%", "%ff", "%ed%a0%80", "1e99", "-1", "true", "AA=="]
    pairs = data.draw(st.lists(st.tuples(st.sampled_from(names), st.sampled_from(values)), max_size=4))
    query = "&".join([*(f"{name}={value}" for name, value in pairs), *([text] if data.draw(st.booleans()) else [])])
    assert read(binding, b"", "", query) in {200, 400}


@pytest.mark.parametrize("rpc", CONTRACT.rpcs, ids=lambda rpc: rpc.name)
def test_messages(rpc, server: RunningServer):
    """Numbers at and beyond all bounds, enums that are none, pictures in odd places: an answer or a refusal."""
    path = f"/{rpc.service}/{rpc.name}"
    with server.channel() as channel:
        call = channel.stream_stream(path, request_serializer=lambda message: message.SerializeToString())

        @FEW
        @given(st.lists(messages(rpc.input), min_size=1, max_size=3 if rpc.client_streaming else 1))
        def ask(requests: list) -> None:
            answers = call(iter(requests), timeout=PATIENCE_S)
            with suppress(grpc.RpcError):
                list(answers)
            assert answers.code() not in FAULTS, answers.details()
            refused = answers.code() is not grpc.StatusCode.OK
            assert refused == ("grpc-status-details-bin" in dict(answers.trailing_metadata()))

        ask()
