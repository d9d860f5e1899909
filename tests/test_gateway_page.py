"""How the gateway serves the page at `/`: whole, safely, and from the browser's cache while it is the same."""

import re
from collections.abc import Iterator

import httpx
import pytest
from cutout_gateway.page import FOLDER
from cutout_gateway.settings import GatewaySettings
from gateway_fixtures import GatewayThread
from waiting import PATIENCE_S

TYPES = {
    ".html": "text/html",
    ".css": "text/css",
    ".js": "text/javascript",
    ".svg": "image/svg+xml",
    ".jpg": "image/jpeg",
}


@pytest.fixture(scope="module")
def rest() -> Iterator[httpx.Client]:
    with (
        GatewayThread(GatewaySettings(server_address="127.0.0.1:1")) as gateway,
        httpx.Client(base_url=gateway.url, timeout=PATIENCE_S) as client,
    ):
        yield client


def addresses() -> list[str]:
    """Of the page and of every file that it consists of."""
    files = [each for each in FOLDER.rglob("*") if each.is_file() and each.name != "index.html"]
    return ["/", *(f"/page/{each.relative_to(FOLDER).as_posix()}" for each in files)]


@pytest.mark.parametrize("address", addresses())
def test_every_file_is_served_safely(rest: httpx.Client, address: str):
    """Nothing may be framed, guessed at or loaded from elsewhere; each file has its own type."""
    answer = rest.get(address)
    assert answer.status_code == 200
    suffix = "." + address.rpartition(".")[2] if "." in address else ".html"
    assert answer.headers["content-type"].split(";")[0].replace("application/java", "text/java") == TYPES[suffix]
    assert answer.headers["x-content-type-options"] == "nosniff"
    policy = dict(each.strip().split(" ", 1) for each in answer.headers["content-security-policy"].split(";"))
    assert policy["default-src"] == policy["frame-ancestors"] == "'none'"
    assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == "'self'"
    assert "unsafe" not in answer.headers["content-security-policy"]


@pytest.mark.parametrize("address", ["/", "/page/main.js"])
def test_an_unchanged_file_is_not_sent_again(rest: httpx.Client, address: str):
    """The browser asks every time, and is told by the etag that it has it; HEAD tells the same."""
    first = rest.get(address)
    assert first.headers["cache-control"] == "no-cache"
    again = rest.get(address, headers={"if-none-match": first.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    assert again.headers["content-security-policy"] == first.headers["content-security-policy"]
    head = rest.head(address)
    assert (head.status_code, head.content, head.headers["etag"]) == (200, b"", first.headers["etag"])


@pytest.mark.parametrize(
    "address", ["/page/", "/page/nowhere.js", "/page/../app.py", "/page/%2e%2e/app.py", "/page/..%2fapp.py"]
)
def test_nothing_else_is_served(rest: httpx.Client, address: str):
    """Neither folders nor what is beside the page; refusals have the form of all others."""
    answer = rest.get(address)
    assert (answer.status_code, answer.json()["details"][0]["reason"]) == (404, "PATH_NOT_FOUND")


def test_the_page_is_of_one_piece():
    """No inline script, style or handler, nothing from elsewhere, and no import of a file that is not there."""
    index = (FOLDER / "index.html").read_text(encoding="utf-8")
    assert not re.search(r"<style|<script(?![^>]*\bsrc=)|\s(?:on\w+|style)=", index)
    texts = {path: path.read_text(encoding="utf-8") for path in FOLDER.glob("*") if path.suffix in TYPES}
    for path, text in texts.items():
        assert set(re.findall(r"https?://[^\s\"'`)]+", text)) <= {"http://www.w3.org/2000/svg"}, path
    imported = {name for text in texts.values() for name in re.findall(r'from "\./([^"]+)"', text)}
    assert imported == {path.name for path in FOLDER.glob("*.js")} - {"main.js"}
