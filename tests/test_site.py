"""The documentation as a site: every page, no warning, nothing from elsewhere."""

import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest
from cutout_gateway.descriptors import Contract

from tools import require

ROOT = Path(__file__).parent.parent


class Loaded(HTMLParser):
    """What a page makes a browser fetch, and the ids that it has."""

    def __init__(self) -> None:
        super().__init__()
        self.fetched: list[str] = []
        self.ids: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.ids.add(given.get("id") or "")
        if tag in {"script", "img", "source", "iframe"} and given.get("src"):
            self.fetched.append(given["src"])
        if tag == "link" and given.get("rel") not in {"next", "prev", "canonical"}:
            self.fetched.append(given["href"])


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Loaded]:
    """The pages by path, as `make check` builds them."""
    if not (ROOT / "node_modules/@mermaid-js/tiny").exists():
        require("mermaid.tiny.js", "npm install")
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    env = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    built = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    assert "WARNING" not in built.stderr
    pages = {}
    for path in folder.rglob("*.html"):
        pages[str(path.relative_to(folder))] = page = Loaded()
        page.feed(path.read_text("utf-8"))
        for each in page.fetched:
            assert not re.match(r"(https?:)?//", each), f"{path.name} fetches {each}"
            # What is served for any address that there is not begins at the root.
            base = folder if each.startswith("/") else path.parent
            assert (base / each.partition("?")[0].lstrip("/")).exists(), f"{path.name} lacks {each}"
    return pages


def test_every_document_is_a_page(site: dict[str, Loaded]):
    """Those of docs, and those of the repository that a reader looks for."""
    docs = {str(path.relative_to(ROOT / "docs").with_suffix(".html")) for path in (ROOT / "docs").rglob("*.md")}
    assert docs | {"index.html", "changelog.html", "contributing.html", "benchmarks.html"} <= set(site)
    named = re.findall(r"^ +- .*: (\S+\.md)$", (ROOT / "mkdocs.yml").read_text("utf-8"), re.MULTILINE)
    assert len(named) == len(set(named)), "a page is named twice"


def test_the_reference_has_the_whole_contract(site: dict[str, Loaded]):
    """Each RPC, message and enum has a place of its own, on the page of its file."""
    contract = Contract.load()
    own = [file for file in contract.descriptor_set.file if file.package == "cutout.v1"]
    for file in own:
        ids = site[file.name.replace("cutout/v1", "reference").replace(".proto", ".html")].ids
        services = {service.name for service in file.service} | {m.name for s in file.service for m in s.method}
        types = {each.name for each in (*file.message_type, *file.enum_type)}
        nested = {f"{m.name}.{each.name}" for m in file.message_type for each in (*m.nested_type, *m.enum_type)}
        assert services | types | nested <= ids, file.name
