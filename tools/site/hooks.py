"""What MkDocs does not do by itself: pages from outside of docs, the API's reference, and links between all of them."""

import posixpath
import re
from pathlib import Path
from typing import Any

import reference
from cutout_gateway.descriptors import Contract
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[2]
# Of the repository, and what the site calls them.
PAGES = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "benchmarks/RESULTS.md": "benchmarks.md",
    "training/README.md": "training.md",
    "training/SOURCES.md": "sources.md",
}
MERMAID = "javascripts/mermaid.js"
COPIED = {
    "node_modules/@mermaid-js/tiny/dist/mermaid.tiny.js": MERMAID,
    "gateway/cutout_gateway/page/icon.svg": "pictures/icon.svg",
    "NOTICE": "notice.txt",
    "tools/site/site.css": "stylesheets/site.css",
}
LINK = re.compile(r"(?P<text>!?\[[^\]\n]*\])\((?P<target>[^)\s]+)\)")


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Puts the reference where the navigation names it, and the pages that it does not name at its end."""
    contract = Contract.load()
    pages = [{reference.title(file): f"reference/{reference.name(file)}.md"} for file in reference.files(contract)]
    config.nav = _replaced(config.nav, {"reference": ["reference/index.md", *pages]})
    named = set(_named(config.nav))
    docs = Path(config.docs_dir)
    config.nav += [path for each in sorted(docs.rglob("*.md")) if (path := str(each.relative_to(docs))) not in named]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the pages that are made, and those of the repository outside of docs."""
    for source, path in PAGES.items():
        files.append(File.generated(config, path, content=(ROOT / source).read_text("utf-8")))
    for source, path in COPIED.items():
        files.append(File.generated(config, path, abs_src_path=str(ROOT / source)))
    for path, content in reference.pages(Contract.load()).items():
        files.append(File.generated(config, f"reference/{path}", content=content))
    return files


def on_page_markdown(markdown: str, page: Page, **_: Any) -> str:
    """Leads links between the repository's files to pages; those to files that are none become text."""
    path = page.file.src_uri
    if path.startswith("reference/"):
        return markdown
    source = next((source for source, made in PAGES.items() if made == path), f"docs/{path}")
    return LINK.sub(lambda found: _link(found, posixpath.dirname(source), posixpath.dirname(path)), markdown)


def on_page_content(content: str, page: Page, **_: Any) -> str:
    """Loads what draws diagrams where there are some; the theme would fetch it from elsewhere."""
    if 'class="mermaid"' not in content:
        return content
    return f'{content}<script src="{posixpath.relpath(MERMAID, posixpath.dirname(page.url) or ".")}"></script>'


def _link(found: re.Match[str], here: str, folder: str) -> str:
    target, hash_, anchor = found["target"].partition("#")
    if not target or "://" in target:
        return found[0]
    there = posixpath.normpath(posixpath.join(here, target))
    made = _page(there)
    if made is None:
        return found["text"].strip("[]")
    return f"{found['text']}({posixpath.relpath(made, folder or '.')}{hash_}{anchor})"


def _page(source: str) -> str | None:
    """Where a file of the repository is on the site."""
    if source.startswith("docs/"):
        return source.removeprefix("docs/")
    if source.startswith("protos/cutout/v1"):
        proto = source.removeprefix("protos/cutout/v1").strip("/").removesuffix(".proto")
        return f"reference/{proto or 'index'}.md"
    return (PAGES | COPIED).get(source)


def _replaced(nav: list[Any], sections: dict[str, list[Any]]) -> list[Any]:
    """The navigation with lists in place of the names of sections."""
    return [
        {
            title: sections.get(item, item) if isinstance(item, str) else _replaced(item, sections)
            for title, item in each.items()
        }
        for each in nav
    ]


def _named(item: Any) -> list[str]:
    if isinstance(item, str):
        return [item]
    return [name for each in (item.values() if isinstance(item, dict) else item) for name in _named(each)]
