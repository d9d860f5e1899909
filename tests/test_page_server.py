"""The page at `/` and its server: every setting, refusals, keys, a server that is slow, away or back."""

# ruff: noqa: F811 - fixtures are imported

import re

import pytest
from conftest import run_server
from cutout.v1 import segmentation_pb2, segmentation_service_pb2
from cutout_gateway.settings import GatewaySettings
from gateway_fixtures import GatewayThread
from language_model import KEY as LANGUAGE_KEY
from language_model import MODEL, run_language_model
from page_fixtures import CAT, Visit, ask, browser, visit, visiting  # noqa: F401 - fixtures
from playwright.sync_api import Browser, expect
from waiting import wait_until

from tools import free_port

pytestmark = pytest.mark.slow
KEY = "a key of sixteen letters".replace(" ", "-")


def test_a_refusal_names_its_field(visit: Visit):
    """What the server says about each wrong field is on the page, and goes away when it is right."""
    visit.open_sample()
    visit.find("zebra")
    problem = visit.page.locator("#problem")
    expect(problem.locator("li code")).to_have_text("phrases[0]")
    expect(problem).to_contain_text("zebra")
    visit.find("cat face")
    expect(problem).to_be_hidden()
    visit.page.locator("#more summary").click()
    visit.page.locator("[name=maskThreshold]").fill("99")
    visit.click(200, 120)
    expect(problem.locator("li code")).to_have_text("options.mask_threshold")
    assert len(visit.objects) == 1  # the click that was refused is taken back


def test_every_setting_of_the_api_is_on_the_page(visit: Visit):
    """What a request may say beside its prompts can be set, but for the form of its answer, which is the page's own."""
    visit.open_sample()
    names = set(visit.page.locator("#settings [name]").evaluate_all("(fields) => fields.map(({ name }) => name)"))
    names = {name.removeprefix("words").removeprefix("grid") for name in names}
    messages = segmentation_pb2.SegmentationOptions, segmentation_pb2.Tiling
    messages += segmentation_service_pb2.SegmentByTextRequest, segmentation_service_pb2.SegmentEverythingRequest
    fields = {field.json_name for message in messages for field in message.DESCRIPTOR.fields}
    own = {"image", "phrases", "exemplars", "detector", "options", "tiling", "maskFormats", "overlay", "returnLogits"}
    own |= {"polygonTolerance", "polygonMaxVertices", "boxNmsIou"}
    assert fields - names == own
    assert "BoxNmsIou" in names

    visit.page.locator("#more summary").click()
    masks = {"maskThreshold": 0.5, "minArea": 2, "maxHoleArea": 3, "minPartArea": 4, "nmsIou": 0.9, "maxObjects": 5}
    tiling = {"tileSize": 256, "overlap": 0.3}
    words = {"boxThreshold": 0.1, "textThreshold": 0.2, "wordsBoxNmsIou": 0.6}
    grid = {"pointsPerSide": 8, "predictedIouThreshold": 0.4, "stabilityThreshold": 0.3, "stabilityOffset": 2}
    grid |= {"gridBoxNmsIou": 0.5, "cropLayers": 1, "cropOverlap": 0.2, "cropPointsDownscale": 2, "cropNmsIou": 0.8}
    for name, value in (masks | tiling | words | grid).items():
        visit.page.locator(f"[name={name}]").fill(str(value))
    options = masks | {"tiling": tiling}
    visit.click(200, 120)
    sent = visit.asked[-1].post_data_json["options"]
    del sent["maskFormats"]
    assert sent == options
    prompts = [{"points": [{"x": 200, "y": 120, "label": 1}]}]
    assert [area for _, area in visit.objects] == [
        each["area"] for each in ask(visit.url, "points", CAT, prompts=prompts, options=options)
    ]
    visit.find("cat face")
    sent = visit.asked[-1].post_data_json
    words["boxNmsIou"] = words.pop("wordsBoxNmsIou")
    assert {name: sent[name] for name in words} == words
    visit.page.get_by_role("button", name="Everything").click()
    problem = visit.page.locator("#problem")  # of a model that finds objects in a way of its own
    expect(problem.locator("li code", has_text="crop_layers")).to_be_visible()
    sent = visit.asked[-1].post_data_json
    grid["boxNmsIou"] = grid.pop("gridBoxNmsIou")
    assert {name: sent[name] for name in grid} == grid


def test_a_sentence_is_told_what_became_of_it(browser: Browser):
    """A language model's words are said, and why it could not help; finds replace those of the same sentence."""
    with (
        run_language_model() as model,
        run_server(rewrite_url=model.url, rewrite_model=MODEL, rewrite_api_key=LANGUAGE_KEY) as server,
        GatewayThread(GatewaySettings(server_address=server.address)) as gateway,
        visiting(browser, gateway.url) as visit,
    ):
        visit.open_sample()
        visit.page.locator("#more summary").click()
        visit.page.locator("[name=rewrite]").check()
        model.says((0, "cat face"))
        for _ in range(2):
            visit.find("who, of all, looks at me?", "Looked for cat face. Found 1.")
            assert [label for label, _ in visit.objects] == ["cat face"]
        assert visit.asked[-1].post_data_json["phrases"] == ["who, of all, looks at me?"]
        model.status = 500
        visit.find("cat face", "Looked for cat face. The language model could not help:")


def test_a_key_is_kept_in_its_tab_alone(browser: Browser):
    """A server that wants a key gets one after it was asked for; another tab knows nothing of it."""
    keys = [{"caller": "somebody", "key": KEY}]
    with (
        run_server(api_keys=keys) as server,
        GatewayThread(GatewaySettings(server_address=server.address)) as gateway,
        visiting(browser, gateway.url) as visit,
    ):
        dialog = visit.page.locator("#key-dialog")
        for key, reason in (("wrong", "asks for an API key"), (KEY, "does not know this key")):
            expect(dialog).to_contain_text(reason)
            visit.page.locator("#key").fill(key)
            visit.page.keyboard.press("Enter")
        expect(dialog).to_be_hidden()
        visit.open_sample()
        visit.click(200, 120)
        assert len(visit.objects) == 1
        assert visit.page.evaluate("localStorage.length") == 0
        assert "CUTOUT_API_KEY" in visit.page.locator("#code code").text_content()
        other = visit.page.context.new_page()
        other.goto(visit.url)
        expect(other.locator("#key-dialog")).to_be_visible()


def test_a_slow_server_can_be_stopped(visit: Visit):
    """While an answer does not come the page says what it does, for how long, and stops when it is told to."""
    visit.open_sample()
    visit.hold("**/v1/segment:*")
    visit.page.locator("#canvas").click(position=visit.at(200, 120))
    expect(visit.page.locator("#status")).to_have_text("Cutting out …")
    expect(visit.page.locator("#seconds")).to_have_text(re.compile(r"^([2-9]|\d{2,}) s$"))
    visit.page.get_by_role("button", name="Stop").click()
    expect(visit.page.locator("#objects > li")).to_have_count(0)
    assert not visit.page.locator("#notices.busy").count()
    visit.page.unroute("**/v1/segment:*")
    visit.click(200, 120)
    assert len(visit.objects) == 1


def test_a_server_that_goes_and_comes_back(browser: Browser):
    """What is asked meanwhile is done when it is back, although the new server has never seen the picture."""
    port = free_port()
    with (
        GatewayThread(GatewaySettings(server_address=f"127.0.0.1:{port}")) as gateway,
        visiting(browser, gateway.url) as visit,
    ):
        with run_server(port=port):
            visit.open_sample()
        visit.page.locator("#canvas").click(position=visit.at(200, 120))
        expect(visit.page.locator("#away")).to_be_visible()
        with run_server(port=port):
            visit.settle()
            expect(visit.page.locator("#away")).to_be_hidden()
            assert len(visit.objects) == 1
            assert visit.uploads() == 2


def test_the_preview_asks_one_thing_at_a_time(visit: Visit):
    """While the mouse moves one request is under way at most; what is stale is given up; a click makes an end of it."""
    visit.open_sample()
    visit.page.locator("#more summary").click()
    visit.page.locator("[name=preview]").select_option("always")
    held = visit.hold("**/v1/segment:points")
    canvas = visit.page.locator("#canvas")
    canvas.hover(position=visit.at(100, 100))
    wait_until(lambda: visit.page.wait_for_timeout(20) or len(held) == 1)
    failed: list[str] = []
    visit.page.on("requestfailed", lambda request: failed.append(request.failure))
    canvas.hover(position=visit.at(300, 200))
    wait_until(lambda: visit.page.wait_for_timeout(20) or len(held) == 2)
    assert failed == ["net::ERR_ABORTED"]
    [point] = held[1].request.post_data_json["prompts"][0]["points"]
    assert (point["x"], point["y"]) == (pytest.approx(300, abs=2), pytest.approx(200, abs=2))
    visit.page.unroute("**/v1/segment:points")
    visit.click(200, 120)
    assert len(visit.objects) == 1
    assert visit.asked[-1].post_data_json["prompts"][0]["points"] == [{"x": 200, "y": 120, "label": 1}]
