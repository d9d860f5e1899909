"""The OpenAPI document: valid by an independent validator, complete, and true of real answers."""

import base64
import html
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import jsonschema
import pytest
from cutout_common.formats import CONTENT_TYPES
from cutout_gateway.descriptors import Contract
from cutout_gateway.openapi import document
from cutout_gateway.protojson import parse_json
from cutout_gateway.routes import Routes
from cutout_gateway.settings import GatewaySettings
from gateway_fixtures import EchoServer, GatewayThread
from openapi_spec_validator import OpenAPIV31SpecValidator
from waiting import PATIENCE_S

from tools import require


@pytest.fixture(scope="module")
def echo_document(echo_contract: Contract) -> dict[str, Any]:
    return document(echo_contract, Routes(echo_contract), "Echo")


@pytest.fixture(scope="module")
def contract() -> Contract:
    return Contract.load()


@pytest.fixture(scope="module")
def described(contract: Contract) -> dict[str, Any]:
    return document(contract, Routes(contract), "Cutout")


@pytest.fixture(scope="module")
def gateway() -> Iterator[GatewayThread]:
    with GatewayThread(GatewaySettings(server_address="127.0.0.1:1")) as running:
        yield running


def test_the_documents_are_valid(described: dict[str, Any], echo_document: dict[str, Any]):
    """An independent validator accepts both documents as OpenAPI 3.1."""
    for found in (described, echo_document):
        assert found["openapi"].startswith("3.1")
        OpenAPIV31SpecValidator(found).validate()


def test_every_route_is_described(contract: Contract, described: dict[str, Any]):
    """Each binding of the contract is an operation with a unique id and a text; nothing else is."""
    operations = [op for path in described["paths"].values() for op in path.values()]
    assert len(operations) == sum(len(rpc.rules) for rpc in contract.rpcs)
    assert len({op["operationId"] for op in operations}) == len(operations)
    assert all(op["summary"] and op["description"] for op in operations)
    assert set(described["paths"]["/v1/images/{image_id}"]) == {"get", "delete"}
    assert "post" in described["paths"]["/v1/models/{name}:load"]
    assert described["paths"]["/v1/images/{image_id}/overlay"]["get"]["operationId"] == "ImageService_RenderOverlay_1"


def test_refusals_are_described(contract: Contract, described: dict[str, Any]):
    """Every operation says with which statuses it refuses, those of bodies where it takes one."""
    always = {"400", "401", "403", "404", "409", "429", "501", "503", "504", "default"}
    for path in described["paths"].values():
        for operation in path.values():
            of_bodies = {"408", "413", "415"} if "requestBody" in operation else set()
            assert set(operation["responses"]) == always | of_bodies | {"200"}
    refusals = described["components"]["responses"]
    assert {status for status, refusal in refusals.items() if "retry-after" in refusal["headers"]} == {
        "429",
        "503",
        "Error",
    }
    assert described["components"]["schemas"]["cutout.v1.SegmentByBoxRequest"]["additionalProperties"] is False


def test_comments_are_the_descriptions(contract: Contract, described: dict[str, Any]):
    """Messages, fields, enums with their values, services and parameters carry the texts of the contract."""
    schemas = described["components"]["schemas"]
    text = contract.comments
    assert schemas["cutout.v1.Box"]["description"] == text["cutout.v1.Box"]
    assert schemas["cutout.v1.Box"]["properties"]["xMin"]["description"] == text["cutout.v1.Box.x_min"]
    strategy = schemas["cutout.v1.SegmentationOptions.Strategy"]
    assert "`STRATEGY_BEST`: The mask with the highest score" in strategy["description"]
    assert strategy["enum"][0] == "STRATEGY_UNSPECIFIED"
    assert {"name": "ModelService", "description": text["cutout.v1.ModelService"]} in described["tags"]
    [parameter, request_id] = described["paths"]["/v1/models/{name}"]["get"]["parameters"]
    assert (request_id["name"], request_id["in"]) == ("x-request-id", "header")
    assert parameter["description"] == text["cutout.v1.GetModelRequest.name"]
    fields = [field for schema in schemas.values() for field in schema.get("properties", {}).values()]
    assert len(fields) > 100


def test_required_fields_and_types(described: dict[str, Any]):
    """field_behavior, 64-bit integers as strings, bytes as base64, unsigned minimum, references."""
    schemas = described["components"]["schemas"]
    assert schemas["cutout.v1.Box"]["required"] == ["xMin", "yMin", "xMax", "yMax"]
    assert schemas["cutout.v1.SegmentByTextRequest"]["required"] == ["image", "phrases"]
    assert schemas["cutout.v1.Model"]["properties"]["memoryBytes"]["type"] == "string"
    assert schemas["cutout.v1.Image"]["properties"]["content"]["contentEncoding"] == "base64"
    assert schemas["cutout.v1.ImageInfo"]["properties"]["width"]["minimum"] == 0
    assert schemas["cutout.v1.Mask"]["properties"]["rle"]["$ref"] == "#/components/schemas/cutout.v1.RleMask"


def test_bodies_and_answers(described: dict[str, Any]):
    """Raw bodies, forms, NDJSON, response_body and errors are told as they are."""
    paths = described["paths"]
    overlay = paths["/v1/overlay"]["post"]
    assert {"application/octet-stream", "image/jpeg", "multipart/form-data"} <= set(overlay["requestBody"]["content"])
    assert "image/png" in overlay["responses"]["200"]["content"]
    pictures = {"application/octet-stream", *CONTENT_TYPES.values()}
    assert set(paths["/v1/images/{image_id}"]["get"]["responses"]["200"]["content"]) == pictures
    assert set(paths["/v1/images"]["post"]["requestBody"]["content"]) == {*pictures, "multipart/form-data"}
    assert {p["name"] for p in overlay["parameters"]} >= {"phrases", "boxes", "maskOnly", "imageId"}
    media = paths["/v1/segment:text"]["post"]["requestBody"]["content"]["multipart/form-data"]
    assert media["encoding"]["phrases"] == {"style": "form", "explode": True}
    form = media["schema"]["properties"]
    assert form["image.content"]["format"] == "binary"
    assert form["phrases"]["type"] == "array"
    assert {name: field["example"] for name, field in form.items() if field["example"]} == {"phrases": ["phrases"]}
    assert form["options.multimask"]["type"] == "boolean"
    text = paths["/v1/segment:text"]["post"]["responses"]
    assert text["200"]["content"]["application/json"]["schema"]["$ref"].endswith("cutout.v1.Segmentation")
    assert text["default"]["$ref"] == "#/components/responses/Error"
    line = paths["/v1/segment:stream"]["post"]["responses"]["200"]["content"]["application/x-ndjson"]["schema"]
    assert [alternative["required"] for alternative in line["oneOf"]] == [["result"], ["error"]]
    load = paths["/v1/models/{name}:load"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert set(load["properties"]) == {"device"}  # the name is in the path


def test_bodies_are_required_where_something_in_them_is(described: dict[str, Any]):
    """What the path gives is not missing from a body, which may then be left out."""
    paths = described["paths"]
    required = {path: op["post"]["requestBody"]["required"] for path, op in paths.items() if "post" in op}
    assert {path: required[path] for path in required if "/models/" in path or path.endswith(("text", "overlay"))} == {
        "/v1/models/{name}:load": False,
        "/v1/models/{name}:unload": False,
        "/v1/overlay": False,
        "/v1/segment:text": True,
    }


def test_extra_properties_are_allowed_where_we_take_them(described: dict[str, Any]):
    """Requests and all that is inside of them are closed, in JSON and as forms; answers may grow."""
    text = validator(described, "cutout.v1.SegmentByTextRequest")
    request = {"image": {"imageId": "a"}, "phrases": ["cat"], "options": {"maxObjects": 5}}
    assert text.is_valid(request)
    assert not text.is_valid(request | {"phrase": "cat"})
    assert not text.is_valid(request | {"options": {"maxObject": 5}})
    load = described["paths"]["/v1/models/{name}:load"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert not jsonschema.Draft202012Validator(load).is_valid({"devices": "cpu"})
    form = described["paths"]["/v1/segment:text"]["post"]["requestBody"]["content"]["multipart/form-data"]["schema"]
    root = jsonschema.Draft202012Validator(form | {"components": described["components"]})
    assert root.is_valid({"phrases": ["cat"], "options": '{"maxObjects": 5}', "options.multimask": True})
    assert not root.is_valid({"phrases": ["cat"], "phrase": "cat"})
    answer = validator(described, "cutout.v1.Segmentation")
    assert answer.is_valid({"somethingNew": 1})


def validator(found: dict[str, Any], name: str) -> jsonschema.Draft202012Validator:
    """A validator for one of a document's schemas."""
    root = {"$ref": f"#/components/schemas/{name}", "components": found["components"]}
    return jsonschema.Draft202012Validator(root, format_checker=jsonschema.FormatChecker())


def test_oneofs_are_exclusive(described: dict[str, Any]):
    """One source, or none, is a valid Image; two are not."""
    image = validator(described, "cutout.v1.Image")
    assert image.is_valid({"uri": "a"})
    assert image.is_valid({})
    assert not image.is_valid({"uri": "a", "imageId": "b"})
    assert not image.is_valid({"uri": 5})


def test_examples_are_valid_requests(contract: Contract, described: dict[str, Any]):
    """Every example of a body is valid by the document, and is read into its message."""
    examples = {
        binding.rpc.input.full_name: described["paths"][binding.template.text]["post"]["requestBody"]["content"]
        for binding in Routes(contract).bindings
        if binding.method == "POST" and binding.takes_body and not binding.raw_body
    }
    assert len(examples) == 11
    for name, content in examples.items():
        schema, example = content["application/json"]["schema"], content["application/json"]["example"]
        jsonschema.Draft202012Validator(schema | {"components": described["components"]}).validate(example)
        parse_json(example, contract.message(name))
    text = examples["cutout.v1.SegmentByTextRequest"]["application/json"]["example"]
    assert text == {"image": {"content": base64.b64encode(b"content").decode()}, "phrases": ["phrases"]}


def test_real_answers_fit_their_schemas(echo: EchoServer, echo_contract: Contract, echo_document: dict[str, Any]):
    """What the gateway answers, and an error, is valid by the document; so is what it takes."""
    sent = {
        "name": "n",
        "bigNumber": "5",
        "data": base64.b64encode(b"abc").decode(),
        "colour": "COLOUR_RED",
        "child": {"child": {"size": 1.5}},
        "scores": {"a": 1},
        "note": "n",
        "maybe": True,
        "at": "2020-01-01T00:00:00Z",
        "took": "1.5s",
        "extra": {"a": [1]},
        "person": {},
    }
    with GatewayThread(GatewaySettings(server_address=echo.address), echo_contract) as gateway:
        thing = validator(echo_document, "echo.v1.Thing")
        thing.validate(sent)
        thing.validate(httpx.post(f"{gateway.url}/v1/things", json=sent, timeout=PATIENCE_S).json())
        status = validator(echo_document, "google.rpc.Status")
        status.validate(
            httpx.post(f"{gateway.url}/v1/fail", json={"code": 3, "detailed": True}, timeout=PATIENCE_S).json()
        )
        status.validate(httpx.get(f"{gateway.url}/nowhere", timeout=PATIENCE_S).json())
        assert not thing.is_valid({"name": "n", "bigNumber": 1.5})


def test_paths_of_several_segments(echo_document: dict[str, Any]):
    """A variable of several segments has their pattern."""
    [parameter, *_] = echo_document["paths"]["/v1/{name}:check"]["post"]["parameters"]
    assert re.fullmatch(parameter["schema"]["pattern"], "shelves/1")
    assert not re.fullmatch(parameter["schema"]["pattern"], "shelves/1/2")


def test_the_pages_need_no_internet(gateway: GatewayThread):
    """Every file of /docs comes from the gateway, and its policy lets nothing else in."""
    with httpx.Client(base_url=gateway.url, follow_redirects=True, timeout=PATIENCE_S) as rest:
        page = rest.get("/docs")
        assert "default-src 'self'" in page.headers["content-security-policy"]
        references = re.findall(r'(?:src|href)="([^"]+)"', page.text)
        assert len(references) == 7
        for reference in references:
            assert "//" not in reference
            assert rest.get(f"/{reference}").status_code == 200
        assert not re.search(r"(url\(|@import)\s*['\"]?https?:", rest.get("/docs/static/swagger-ui.css").text)
        assert rest.get("/openapi.json").json()["info"]["title"] == "Cutout"


def test_a_browser_shows_the_operations(gateway: GatewayThread, described: dict[str, Any], tmp_path: Path):
    """Swagger UI renders every operation with its summary, and no error, in a real browser."""
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"]
    flags += ["--disable-background-networking", "--disable-component-update", f"--user-data-dir={tmp_path}"]
    chromium = require("chromium", "Debian has it in the package chromium")
    command = [chromium, *flags, "--virtual-time-budget=20000", "--dump-dom", f"{gateway.url}/docs"]
    page = html.unescape(subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, check=True).stdout)
    operations = [op for path in described["paths"].values() for op in path.values()]
    assert page.count('class="opblock opblock-') == len(operations)
    for operation in operations:
        assert operation["summary"] in page
    assert "Unable to render" not in page
    assert 'class="errors-wrapper"' not in page
