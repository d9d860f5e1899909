"""The page of the gateway in a real Chromium, driven by Playwright, over a real server with the built-in model."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from playwright.sync_api import Browser, BrowserContext, Download, Page, Request, Route, expect, sync_playwright
from pycocotools import mask as coco
from waiting import PATIENCE_S

from tools import require

PATIENCE_MS = PATIENCE_S * 1000
ROOT = Path(__file__).parent.parent
PAGE = ROOT / "gateway/cutout_gateway/page"
DESKTOP = {"width": 1280, "height": 800}
PHONE = {"width": 360, "height": 740}
CAT = (PAGE / "samples/cat.jpg").read_bytes()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """One Chromium for all tests of a file."""
    chromium = require("chromium", "Debian has it in the package chromium")
    expect.set_options(timeout=PATIENCE_MS)
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"], timeout=PATIENCE_MS)
        yield started
        started.close()


@dataclass
class Visit:
    """Somebody looks at the page.

    Attributes:
        asked: The requests that the page made, in their order.
        complaints: What the browser complained about: scripts that failed, and what the page's policy forbids.
    """

    page: Page
    url: str
    asked: list[Request] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.page.set_default_timeout(PATIENCE_MS)
        self.page.on("request", self.note)
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("console", lambda said: self.complaints.append(said.text) if "policy" in said.text else None)
        self.page.goto(self.url)

    def note(self, request: Request) -> None:
        """Keeps a request; Playwright takes no method of a list."""
        self.asked.append(request)

    def hold(self, pattern: str) -> list[Route]:
        """Requests that come to lie here, and get no answer."""
        held: list[Route] = []

        def keep(route: Route) -> None:
            held.append(route)

        self.page.route(pattern, keep)
        return held

    def open_sample(self, name: str = "Cat") -> None:
        """Opens a sample, and waits until clicks are cheap."""
        self.page.get_by_role("button", name=name).click()
        expect(self.page.locator("#status")).to_contain_text("Ready")

    def at(self, x: float, y: float) -> dict[str, float]:
        """Where a pixel of a picture that is shown whole is on the canvas."""
        box = self.page.locator("#canvas").bounding_box()
        label = self.page.locator("#canvas").get_attribute("aria-label") or ""
        width, height = map(int, re.findall(r"(\d+) by (\d+)", label)[0])
        scale = min((box["width"] - 24) / width, (box["height"] - 24) / height)
        left, top = (box["width"] - width * scale) / 2, (box["height"] - height * scale) / 2
        return {"x": left + (x + 0.5) * scale, "y": top + (y + 0.5) * scale}

    def click(self, x: float, y: float, **how: Any) -> None:
        """Clicks a pixel of the picture, and waits for the mask."""
        self.page.locator("#canvas").click(position=self.at(x, y), **how)
        self.settle()

    def drag(self, x_min: float, y_min: float, x_max: float, y_max: float) -> None:
        """Drags from a pixel to another, and waits for the mask."""
        canvas = self.page.locator("#canvas").bounding_box()
        for step, place in enumerate((self.at(x_min, y_min), self.at(x_max, y_max))):
            self.page.mouse.move(canvas["x"] + place["x"], canvas["y"] + place["y"], steps=5)
            (self.page.mouse.up if step else self.page.mouse.down)()
        self.settle()

    def find(self, words: str, said: str = "") -> None:
        """Searches by words, and sees what is said in the end, which does not stay."""
        self.page.locator("#phrases").fill(words)
        self.page.keyboard.press("Enter")
        if said:
            expect(self.page.locator("#status")).to_contain_text(said)
        self.settle()

    def settle(self) -> None:
        """Waits until nothing is under way."""
        expect(self.page.locator("#notices.busy")).to_have_count(0)
        expect(self.page.locator(".figures", has_text="cutting out")).to_have_count(0)

    @property
    def objects(self) -> list[tuple[str, int]]:
        """Label and area of every object in the list."""
        rows = self.page.locator("#objects > li")
        found = []
        for i in range(rows.count()):
            figures = rows.nth(i).locator(".figures").inner_text()
            label = rows.nth(i).locator(".label").input_value()
            found.append((label, int(re.findall(r"([\d,]+) pixels", figures)[0].replace(",", ""))))
        return found

    def save(self, name: str) -> tuple[str, bytes]:
        """Presses a button of "Save"; the file's name and its bytes."""
        with self.page.expect_download(timeout=PATIENCE_MS) as saved:
            self.page.locator(f"#save [value={name}]").click()
        download: Download = saved.value
        return download.suggested_filename, Path(download.path()).read_bytes()

    def uploads(self) -> int:
        """How often the picture was stored."""
        answers = (each.response() for each in self.asked if each.url.endswith("/v1/images"))
        return sum(answer is not None and answer.status == 200 for answer in answers)


@contextmanager
def visiting(browser: Browser, url: str, **context: Any) -> Iterator[Visit]:
    """A visit in a fresh context, without anything that another visit left; fails if the browser complained."""
    fresh: BrowserContext = browser.new_context(viewport=DESKTOP, accept_downloads=True, **context)
    fresh.grant_permissions(["clipboard-read", "clipboard-write"])
    try:
        visit = Visit(fresh.new_page(), url)
        yield visit
        assert visit.complaints == []
    finally:
        fresh.close()


@pytest.fixture
def visit(browser: Browser, gateway_url: str) -> Iterator[Visit]:
    """Somebody who has just opened the page."""
    with visiting(browser, gateway_url) as looking:
        yield looking


def ask(url: str, kind: str, picture: bytes, **request: Any) -> list[dict[str, Any]]:
    """What the API itself answers."""
    with httpx.Client(base_url=url, timeout=PATIENCE_S) as rest:
        image_id = rest.post("/v1/images", content=picture).json()["imageId"]
        answer = rest.post(f"/v1/segment:{kind}", json={"image": {"imageId": image_id}} | request)
    return answer.raise_for_status().json()["objects"]


def pixels(found: dict[str, Any]) -> np.ndarray:
    """The mask of an object of the API, (H, W) bool."""
    return coco.decode(found["masks"][0]["rle"]).astype(bool)
