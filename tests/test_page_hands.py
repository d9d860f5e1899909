"""The page at `/` by mouse, finger and keyboard, on a desk and on a phone, and for who cannot see it."""

# ruff: noqa: F811 - fixtures are imported

import itertools

import pytest
from page_fixtures import CAT, PHONE, ROOT, Visit, ask, browser, pixels, visit, visiting  # noqa: F401 - fixtures
from playwright.sync_api import Browser, expect

from tools import require

pytestmark = pytest.mark.slow


def pinch(visit: Visit, place: dict[str, float], times: float) -> None:
    """Two fingers around a place of the canvas, drawn apart to so many times their distance."""
    canvas = visit.page.locator("#canvas").bounding_box()
    x, y = canvas["x"] + place["x"], canvas["y"] + place["y"]
    session = visit.page.context.new_cdp_session(visit.page)

    def touch(kind: str, *offsets: float) -> None:
        points = [{"x": x + offset, "y": y, "id": index} for index, offset in enumerate(offsets)]
        session.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})

    touch("touchStart", -20)
    for step in range(11):
        far = 20 * (1 + (times - 1) * step / 10)
        touch("touchMove" if step else "touchStart", -far, far)
    touch("touchEnd")


def test_clicks_mean_the_pixels_that_are_seen(visit: Visit):
    """After zooming in, a click is about what is under the mouse, and pixels are sharp squares."""
    visit.open_sample()
    visit.page.locator("#canvas").hover(position=visit.at(300, 100))
    for _ in range(8):
        visit.page.mouse.wheel(0, -200)
    visit.page.locator("#canvas").click(position=visit.at(300, 100))
    visit.settle()
    [point] = visit.asked[-1].post_data_json["prompts"][0]["points"]
    assert (point["x"], point["y"]) == (300, 100)
    drawn = visit.page.locator("#canvas").evaluate(
        """(canvas) => {
          const row = canvas.getContext("2d").getImageData(0, canvas.height - 5, canvas.width, 1).data;
          return Array.from({ length: canvas.width }, (_, i) => row.slice(4 * i, 4 * i + 3).join());
        }"""
    )
    changes = sum(a != b for a, b in itertools.pairwise(drawn))
    assert 0 < changes < len(drawn) / 8
    visit.page.get_by_role("button", name="Show the whole picture").click()
    visit.page.locator("#new-object").click()
    visit.click(100, 200)
    assert visit.asked[-1].post_data_json["prompts"][0]["points"] == [{"x": 100, "y": 200, "label": 1}]


def test_on_a_phone(browser: Browser, gateway_url: str):
    """Nothing is wider than the screen; taps add, or take away when that is chosen."""
    with visiting(browser, gateway_url, has_touch=True, is_mobile=True) as visit:
        visit.page.set_viewport_size(PHONE)
        assert visit.page.evaluate("document.documentElement.scrollWidth") == PHONE["width"]
        visit.page.get_by_role("button", name="Cat").tap()
        expect(visit.page.locator("#status")).to_contain_text("Ready")
        canvas = visit.page.locator("#canvas")
        canvas.tap(position=visit.at(200, 120))
        visit.settle()
        visit.page.get_by_text("Take away", exact=True).first.tap()
        canvas.tap(position=visit.at(60, 60))
        visit.settle()
        assert [each["label"] for each in visit.asked[-1].post_data_json["prompts"][0]["points"]] == [1, 0]
        before = len(visit.asked)
        pinch(visit, visit.at(200, 120), times=4)
        assert len(visit.asked) == before
        visit.page.get_by_text("Add", exact=True).first.tap()
        for offset in (0, 40):
            place = visit.at(200, 120)
            canvas.tap(position=place | {"x": place["x"] + offset})
            visit.settle()
        *_, middle, beside = visit.asked[-1].post_data_json["prompts"][0]["points"]
        assert (middle["x"], middle["y"]) == (pytest.approx(200, abs=1), pytest.approx(120, abs=1))
        near = 40 / 4 * 100 / (visit.at(300, 120)["x"] - visit.at(200, 120)["x"])
        assert beside["x"] - middle["x"] == pytest.approx(near, abs=1)
        visit.page.locator("#code summary").tap()
        visit.page.locator("#more summary").tap()
        assert visit.page.evaluate("document.documentElement.scrollWidth") == PHONE["width"]


def test_by_the_keyboard_alone(visit: Visit):
    """From the sample to a mask, a box and a selected object without a mouse."""
    visit.page.locator("#samples button").first.focus()
    visit.page.keyboard.press("Enter")
    expect(visit.page.locator("#status")).to_contain_text("Ready")
    expect(visit.page.locator("#canvas")).to_be_focused()
    for key in ("ArrowRight", "Enter", "Shift+ArrowLeft", "Shift+Enter"):
        visit.page.keyboard.press(key)
        visit.settle()
    points = visit.asked[-1].post_data_json["prompts"][0]["points"]
    assert [each["label"] for each in points] == [1, 0]
    assert points[1]["x"] < points[0]["x"]
    for key in ("n", "b", "Enter", "Shift+ArrowRight", "Shift+ArrowDown", "Enter"):
        visit.page.keyboard.press(key)
    visit.settle()
    assert set(visit.asked[-1].post_data_json["prompts"][0]["box"]) == {"xMin", "yMin", "xMax", "yMax"}
    assert len(visit.objects) == 2
    visit.page.keyboard.press("Delete")
    assert len(visit.objects) == 1
    words = visit.page.locator("#vocabulary button")
    visit.page.keyboard.press("/")
    for key, focused in (
        ("Tab", None),
        ("Tab", None),
        ("Tab", 0),
        ("ArrowRight", 1),
        ("ArrowLeft", 0),
        ("ArrowUp", -1),
    ):
        visit.page.keyboard.press(key)
        if focused is not None:
            expect(words.nth(focused)).to_be_focused()
    visit.page.keyboard.press("Tab")
    expect(visit.page.locator("#remove-all")).to_be_focused()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", [None, PHONE], ids=["desktop", "phone"])
def test_axe_finds_nothing(browser: Browser, gateway_url: str, scheme: str, size: dict[str, int] | None):
    """axe-core has no complaint: at the start, at work with all that opens, in the help."""
    script = ROOT / "node_modules/axe-core/axe.min.js"
    if not script.exists():
        require("axe-core", "npm install")
    with visiting(browser, gateway_url, color_scheme=scheme, reduced_motion="reduce") as visit:
        if size:
            visit.page.set_viewport_size(size)
        visit.page.evaluate(script.read_text(encoding="utf-8"))

        def violations() -> list[tuple[str, str]]:
            found = visit.page.evaluate("axe.run()")["violations"]
            return [(each["id"], node["html"]) for each in found for node in each["nodes"]]

        assert violations() == []
        visit.open_sample()
        visit.find("cat face")
        visit.find("zebra")
        for name in ("code", "more"):
            visit.page.locator(f"#{name} summary").click()
        expect(visit.page.locator("#problem")).to_be_visible()
        assert violations() == []
        visit.page.locator("#help-button").click()
        assert violations() == []


def test_the_documentation_is_tried_on_a_phone(browser: Browser, gateway_url: str):
    """`/docs` fits a phone, and opens an operation on a form that takes a file and is answered."""
    with visiting(browser, f"{gateway_url}/docs", has_touch=True, is_mobile=True) as visit:
        visit.page.set_viewport_size(PHONE)
        operation = visit.page.locator("#operations-SegmentationService-SegmentationService_SegmentByText")
        operation.locator(".opblock-summary-control").tap()
        files = operation.locator("tr[data-property-name='image.content'] input[type=file]")
        files.set_input_files({"name": "cat.jpg", "mimeType": "image/jpeg", "buffer": CAT})
        operation.locator("tr[data-property-name='phrases'] input[type=text]").fill("cat face")
        expect(operation.locator("tr[data-param-in='header']")).to_have_count(0)
        assert visit.page.evaluate("document.documentElement.scrollWidth") == PHONE["width"]
        with visit.page.expect_response("**/v1/segment:text") as answered:
            operation.get_by_role("button", name="Execute").tap()
        answer = answered.value.json()
        assert [each["area"] for each in answer["objects"]] == [
            each["area"] for each in ask(gateway_url, "text", CAT, phrases=["cat face"])
        ]
