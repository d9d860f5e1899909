"""Path templates of google.api.http: grammar, matching, percent-decoding."""

from pathlib import Path

import pytest
from cutout_gateway.descriptors import Contract, ContractError
from cutout_gateway.errors import HttpError
from cutout_gateway.routes import Routes
from cutout_gateway.templates import EncodingError, TemplateError, parse
from gateway_fixtures import HERE, compile_protos

# Template, path, variables (None: no match). The first rows are the examples in google/api/http.proto's own comment.
MATCHES = [
    ("/v1/{name=messages/*}", "/v1/messages/123456", {"name": "messages/123456"}),
    ("/v1/messages/{message_id}", "/v1/messages/123456", {"message_id": "123456"}),
    (
        "/v1/users/{user_id}/messages/{message_id}",
        "/v1/users/me/messages/123456",
        {"user_id": "me", "message_id": "123456"},
    ),
    ("/v1/messages/{message_id}/{sub.subfield}", "/v1/messages/1/foo", {"message_id": "1", "sub.subfield": "foo"}),
    ("/v1/{var}", "/v1/a", {"var": "a"}),
    ("/v1/{var=*}", "/v1/a", {"var": "a"}),
    ("/v1/{var=**}", "/v1/a/b", {"var": "a/b"}),
    ("/v1/{var=foo/*}", "/v1/foo/b", {"var": "foo/b"}),
    ("/v1/{var=foo/*}", "/v1/bar/b", None),
    ("/v1/{a=x/*/y/**}", "/v1/x/1/y/2/3", {"a": "x/1/y/2/3"}),
    ("/v1/{a=x/*/y/**}", "/v1/x/1/y", {"a": "x/1/y"}),
    ("/v1/{a=x/*/y/**}", "/v1/x/1", None),
    ("/v1/{a=x/*}/{b=y/*}", "/v1/x/1/y/2", {"a": "x/1", "b": "y/2"}),
    ("/v1/*/c", "/v1/b/c", {}),
    ("/v1/**", "/v1", {}),
    ("/v1/**", "/v1/b/c", {}),
    ("/v1/**", "/v2/b", None),
    ("/v1/a", "/v1/a", {}),
    ("/v1/a", "/v1/a/", None),
    ("/v1/a", "/v1//a", None),
    ("/v1/{a}", "/v1/", None),
    ("/v1/{a}", "/v1/b/c", None),
    ("/v1/{a}:go", "/v1/b:go", {"a": "b"}),
    ("/v1/{a}:go", "/v1/b:c:go", {"a": "b:c"}),
    ("/v1/{a}:go", "/v1/b", None),
    ("/v1/{a}:go", "/v1/b:stop", None),
    ("/v1/{a}:go", "/v1/b%3Ago", None),
    ("/v1/{a}:go", "/v1/b:go/c", None),
    ("/v1/{a=**}:go", "/v1/b/c:go", {"a": "b/c"}),
    ("/v1/{a=**}:go", "/v1:go", {"a": ""}),
    ("/v1/{a}", "/v1/b:go", {"a": "b:go"}),
    # One segment is decoded in full, several keep an encoded slash as it came.
    ("/v1/{a}", "/v1/b%2Fc%20d%C3%A9%25", {"a": "b/c dé%"}),
    ("/v1/{a=**}", "/v1/b%2Fc%20d/%2f%C3%A9+", {"a": "b%2Fc d/%2fé+"}),
    ("/v1/{a=x/*}", "/v1/x/b%2Fc%3A", {"a": "x/b%2Fc:"}),
    ("/v1/caf%C3%A9", "/v1/café", {}),
    ("/v1/%61", "/v1/a", {}),
    ("/v1/a", "/v1/%61", {}),
]


@pytest.mark.parametrize(("template", "path", "expected"), MATCHES)
def test_match(template: str, path: str, expected: dict[str, str] | None):
    """A template matches the paths that the specification says it does, and binds what they say."""
    assert parse(template).match(path) == expected


@pytest.mark.parametrize("path", ["/v1/%", "/v1/%zz", "/v1/a%2", "/v1/%ff", "/v1/%C3%28", "/v1/%ED%A0%80"])
@pytest.mark.parametrize("template", ["/v1/{a}", "/v1/{a=**}"])
def test_undecodable_variables_are_refused(template: str, path: str):
    """A malformed escape, and bytes that are not UTF-8, are refused and not guessed at."""
    with pytest.raises(EncodingError):
        parse(template).match(path)


@pytest.mark.parametrize(
    "template",
    [
        "",
        "v1",
        "/",
        "/v1/",
        "/v1//a",
        "/{a=**}/b",
        "/**/b",
        "/{a",
        "/a}",
        "/{a={b}}",
        "/{a=}",
        "/{a=b//c}",
        "/{a}b",
        "/b{a}",
        "/{}",
        "/{1a}",
        "/{a.}",
        "/{a}/{a}",
        "/a:",
        "/a?b",
        "/a b",
        "/***",
        "/a*",
    ],
)
def test_templates_outside_the_grammar_are_refused(template: str):
    """What is not a template is refused when the contract is read, not when a request comes."""
    with pytest.raises(TemplateError):
        parse(template)


def test_ranks_put_the_more_specific_template_first():
    """A literal goes before `*`, which goes before `**`, from left to right."""
    texts = ["/v1/**", "/v1/*/b", "/v1/a/**", "/v1/a/*", "/v1/a/b", "/v1/*/*"]
    ranked = sorted(texts, key=lambda text: parse(text).rank)
    assert ranked == ["/v1/a/b", "/v1/a/*", "/v1/a/**", "/v1/*/b", "/v1/*/*", "/v1/**"]


@pytest.fixture(scope="module")
def echo_routes(tmp_path_factory: pytest.TempPathFactory) -> Routes:
    descriptors = compile_protos(tmp_path_factory.mktemp("echo"), HERE / "gateway_echo.proto")
    return Routes(Contract(descriptors))


@pytest.mark.parametrize(
    ("method", "path", "rpc"),
    [
        ("GET", "/v1/files/special", "Literal"),
        ("GET", "/v1/files/other", "File"),
        ("GET", "/v1/things/a", "Get"),
        ("LOCK", "/v1/things/a", "Lock"),
        ("PUT", "/v1/things/a", "Put"),
        ("GET", "/v1/shelves/1/books/2", "Deep"),
        ("POST", "/v1/shelves/1:check", "Check"),
        ("GET", "/v1/raw:stream", "RawStream"),
        ("POST", "/v1/raw", "RawWhole"),
    ],
)
def test_routes_take_the_most_specific_rule_of_the_method(echo_routes: Routes, method: str, path: str, rpc: str):
    """Where several templates fit, the most specific one that has the method answers."""
    assert echo_routes.match(method, path)[0].rpc.name == rpc


@pytest.mark.parametrize(
    ("method", "path", "status", "allow"),
    [
        ("GET", "/nowhere", 404, None),
        ("GET", "/v1/things/a/b", 404, None),
        ("DELETE", "/v1/things/a", 405, "GET, HEAD, LOCK, PATCH, PUT"),
        ("GET", "/v1/shelves/1:check", 405, "POST"),
        ("get", "/v1/things/a", 405, "GET, HEAD, LOCK, PATCH, PUT"),
        ("GET", "/v1/things/%zz", 400, None),
    ],
)
def test_routes_refuse(echo_routes: Routes, method: str, path: str, status: int, allow: str | None):
    """An unknown path is 404, a wrong method 405 with those that are right."""
    with pytest.raises(HttpError) as refused:
        echo_routes.match(method, path)
    assert refused.value.http_status == status
    assert refused.value.headers.get("allow") == allow


def test_every_rule_of_the_contract_has_its_route():
    """Each RPC of Cutout's contract but the bidirectional one is reachable, under each of its bindings."""
    contract = Contract.load()
    routes = Routes(contract)
    assert sum(len(rpc.rules) for rpc in contract.rpcs) == len(routes.bindings)
    names = {rpc.name for rpc in contract.rpcs}
    assert {"SegmentByText", "StreamSegmentation", "UploadImage", "RenderOverlay", "GetStatus"} <= names
    assert "SegmentSession" not in names


BROKEN = {
    "body: a field that is not there": 'post: "/a" body: "nope"',
    "response_body: a field that is not there": 'get: "/a" response_body: "nope"',
    "path: a field that is not there": 'get: "/{nope}"',
    "path: a repeated field": 'get: "/{numbers}"',
    "path: a message": 'get: "/{child}"',
    "path: into a scalar": 'get: "/{name.x}"',
    "malformed": 'get: "/{name"',
    "twins": 'get: "/a/{name}" additional_bindings {get: "/a/{child.name}"}',
}


@pytest.mark.parametrize("rule", BROKEN.values(), ids=BROKEN.keys())
def test_rules_that_cannot_be_served_are_refused_at_start(rule: str, tmp_path: Path):
    """A wrong rule stops the gateway with the RPC's name; it does not wait for a request."""
    with pytest.raises(ContractError, match=r"t\.S\.Do"):
        Routes(Contract(_service(tmp_path, f"rpc Do(M) returns (M) {{ option (google.api.http) = {{{rule}}}; }}")))


@pytest.mark.parametrize("signature", ["(stream M) returns (stream M)", "(stream M) returns (M)"])
def test_streams_that_http_cannot_carry_are_refused_at_start(signature: str, tmp_path: Path):
    """A bidirectional stream, and a client stream of anything but raw bytes, cannot have a rule."""
    rpc = f'rpc Do{signature} {{ option (google.api.http) = {{post: "/a" body: "*"}}; }}'
    with pytest.raises(ContractError, match=r"t\.S\.Do"):
        Routes(Contract(_service(tmp_path, rpc)))


def _service(directory: Path, rpc: str):
    text = f"""syntax = "proto3"; package t; import "google/api/annotations.proto";
    message M {{ string name = 1; repeated int32 numbers = 2; M child = 3; }}
    service S {{ {rpc} }}"""
    (directory / "t.proto").write_text(text)
    return compile_protos(directory, directory / "t.proto")
