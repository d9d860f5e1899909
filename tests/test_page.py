"""The page at `/`, as people use it: a real Chromium, the real gateway, a real server with the built-in model."""

# ruff: noqa: F811 - fixtures are imported

import base64
import io
import itertools
import json
import zipfile
from collections.abc import Iterator

import numpy as np
import pytest
from conftest import Photo, run_server
from cutout.v1 import segmentation_pb2, segmentation_service_pb2
from cutout_gateway.settings import GatewaySettings
from gateway_fixtures import GatewayThread
from language_model import KEY as LANGUAGE_KEY
from language_model import MODEL, run_language_model
from page_fixtures import PAGE, PATIENCE_MS, PHONE, ROOT, Visit, ask, browser, pixels, visiting  # noqa: F401
from PIL import Image
from playwright.sync_api import Browser, expect
from waiting import wait_until

from tools import free_port, require

pytestmark = pytest.mark.slow
CAT = (PAGE / "samples/cat.jpg").read_bytes()
KEY = "a key of sixteen letters".replace(" ", "-")
DROP = """([name, data]) => {
  const bytes = Uint8Array.from(atob(data), (letter) => letter.charCodeAt(0));
  const dataTransfer = new DataTransfer();
  dataTransfer.items.add(new File([bytes], name, { type: "image/jpeg" }));
  document.body.dispatchEvent(new DragEvent("drop", { dataTransfer, bubbles: true, cancelable: true }));
}"""


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


@pytest.fixture
def visit(browser: Browser, gateway_url: str) -> Iterator[Visit]:
    with visiting(browser, gateway_url) as looking:
        yield looking


def test_a_dropped_picture_is_uploaded_and_encoded_once(visit: Visit, photos: dict[str, Photo]):
    """It is ready before the first click, and clicks send no picture."""
    visit.page.evaluate(DROP, ["chelsea.jpg", base64.b64encode(photos["chelsea"].jpeg).decode()])
    expect(visit.page.locator("#status")).to_contain_text("Ready")
    assert visit.uploads() == 1
    visit.click(200, 120)
    visit.click(120, 200)
    assert visit.uploads() == 1
    asked = [each for each in visit.asked if "/v1/segment" in each.url]
    answers = [
        answer.json() for each in asked[1:] if (answer := each.response())
    ]  # previews that were given up have none
    assert all(each["timings"]["embeddingCached"] for each in answers)
    [(_, area)] = visit.objects
    points = [{"x": 200, "y": 120, "label": 1}, {"x": 120, "y": 200, "label": 1}]
    [found] = ask(visit.url, "points", photos["chelsea"].jpeg, prompts=[{"points": points}])
    assert area == found["area"]


def test_a_file_that_is_no_picture(visit: Visit):
    """It is refused where it was dropped, and the next one is taken."""
    visit.page.evaluate(DROP, ["notes.jpg", base64.b64encode(b"notes").decode()])
    expect(visit.page.locator("#start-problem")).to_contain_text("cannot show notes.jpg")
    visit.open_sample()


def test_the_picture_chosen_last_stays(visit: Visit):
    """One that takes longer to read than the next one does not come in its place."""
    visit.page.evaluate(
        """() => {
          const read = window.createImageBitmap;
          window.createImageBitmap = async (...given) => {
            window.createImageBitmap = read;
            await new Promise((go) => (window.go = go));
            return (window.late = read(...given));
          };
        }"""
    )
    visit.page.get_by_role("button", name="Astronaut").click()
    visit.page.wait_for_function("() => window.go")
    visit.open_sample("Cat")
    visit.page.evaluate(
        "async () => { go(); await new Promise(requestAnimationFrame); await late; await new Promise(setTimeout); }"
    )
    visit.page.evaluate("() => new Promise(requestAnimationFrame)")
    expect(visit.page.locator("#canvas")).to_have_attribute("aria-label", "Picture cat.jpg, 451 by 300 pixels")
    assert visit.uploads() == 1


def test_words_boxes_clicks_and_undo(visit: Visit):
    """Each way gives an object; clicks refine the selected one; undo and redo go through it without a request."""
    visit.open_sample()
    visit.find("person", "Nothing was found.")
    expect(visit.page.locator("#undo")).to_be_disabled()
    visit.find("cat face, eye")
    [face, *eyes] = ask(visit.url, "text", CAT, phrases=["cat face", "eye"])
    assert sorted(visit.objects) == sorted((each["label"], each["area"]) for each in [face, *eyes])
    visit.page.get_by_role("button", name="Delete all").click()

    visit.drag(60, 20, 400, 290)
    box = {"xMin": 60, "yMin": 20, "xMax": 400, "yMax": 290}
    [(_, boxed)] = visit.objects
    sent = visit.asked[-1].post_data_json["prompts"][0]
    near = {name: pytest.approx(value, abs=2) for name, value in box.items()}
    assert sent == {"points": [], "box": near}
    visit.click(30, 30, button="right")
    [(_, refined)] = visit.objects
    prompt = {"points": [{"x": 30, "y": 30, "label": 0}], "box": sent["box"]}
    assert [boxed, refined] == [ask(visit.url, "points", CAT, prompts=[each])[0]["area"] for each in (sent, prompt)]

    visit.page.get_by_role("button", name="New object").click()
    visit.click(430, 20)
    assert len(visit.objects) == 2
    before = len(visit.asked)
    visit.page.keyboard.press("Control+z")
    assert visit.objects == [("", refined)]
    visit.page.get_by_role("button", name="Undo").click()
    assert visit.objects == [("", boxed)]
    visit.page.keyboard.press("Control+Shift+z")
    visit.page.get_by_role("button", name="Redo").click()
    assert len(visit.objects) == 2
    assert len(visit.asked) == before


def test_what_is_saved_is_what_the_api_answers(visit: Visit):
    """Masks, label map, cut-out and COCO are the answer's, pixel for pixel; the archive has them all."""
    visit.open_sample()
    visit.find("cat face")
    visit.page.get_by_role("button", name="New object").click()
    visit.click(430, 20)
    [face] = ask(visit.url, "text", CAT, phrases=["cat face"])
    [corner] = ask(visit.url, "points", CAT, prompts=[{"points": [{"x": 430, "y": 20}]}])
    names, masks = ["cat face", "object"], [pixels(face), pixels(corner)]

    name, data = visit.save("mask")
    assert name == "cat-object-2-mask.png"
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(data)).convert("L")) == 255, masks[1])
    labels = np.asarray(Image.open(io.BytesIO(visit.save("labels")[1])))
    assert np.array_equal(labels, np.where(masks[1], 2, masks[0]))
    cutout = np.asarray(Image.open(io.BytesIO(visit.save("cutout")[1])))
    box = corner["box"]
    inside = (slice(int(box["yMin"]), int(box["yMax"])), slice(int(box["xMin"]), int(box["xMax"])))
    assert np.array_equal(cutout[..., 3] == 255, masks[1][inside])
    photograph = np.asarray(Image.open(io.BytesIO(CAT)).convert("RGB"))[inside].astype(int)
    assert abs(cutout[..., :3][masks[1][inside]] - photograph[masks[1][inside]]).max() <= 3  # two decoders of JPEG

    dataset = json.loads(visit.save("coco")[1])
    assert [each["name"] for each in dataset["categories"]] == names
    assert [each["segmentation"] for each in dataset["annotations"]] == [e["masks"][0]["rle"] for e in (face, corner)]
    assert [each["area"] for each in dataset["annotations"]] == [face["area"], corner["area"]]
    overlay = np.asarray(Image.open(io.BytesIO(visit.save("overlay")[1])))
    assert overlay.shape[:2] == masks[0].shape
    archive = zipfile.ZipFile(io.BytesIO(visit.save("all")[1]))
    assert archive.testzip() is None
    kept = {"cat-labels.png", "cat-overlay.png", "cat-coco.json"}
    kept |= {f"{folder}/{file}.png" for folder in ("masks", "cutouts") for file in ("001-cat-face", "002-object-2")}
    assert set(archive.namelist()) == kept
    first = np.asarray(Image.open(archive.open("masks/001-cat-face.png")).convert("L"))
    assert np.array_equal(first == 255, masks[0])


def test_objects_are_named_coloured_hidden_and_chosen_from_guesses(visit: Visit):
    """Label and colour go into files; what is hidden does not; guesses are gone through; all can be undone."""
    visit.open_sample()
    visit.page.locator("#more summary").click()
    visit.page.locator("[name=multimask]").check()
    visit.page.locator("[name=preview]").select_option("never")
    visit.click(200, 120)
    points = [{"x": 200, "y": 120, "label": 1}]
    guesses = ask(visit.url, "points", CAT, prompts=[{"points": points}], options={"multimask": True})
    assert len(guesses) > 1
    for guess in (*guesses, guesses[0]):
        assert visit.objects == [("", guess["area"])]
        visit.page.get_by_role("button", name="show next").click()
    visit.page.get_by_label("Label of object 1").fill("whiskers")
    visit.page.keyboard.press("Tab")
    colour = visit.page.get_by_label("Colour of whiskers")
    colour.evaluate("(input) => { input.value = '#0a141e'; input.dispatchEvent(new Event('change')); }")
    [category] = json.loads(visit.save("coco")[1])["categories"]
    assert category["name"] == "whiskers"
    labels = Image.open(io.BytesIO(visit.save("labels")[1]))
    assert labels.getpalette()[:6] == [0, 0, 0, 10, 20, 30]
    visit.page.get_by_role("button", name="Hide whiskers").click()
    expect(visit.page.locator("#save [value=coco]")).to_be_disabled()
    for _ in range(3):
        visit.page.get_by_role("button", name="Undo").click()
    expect(visit.page.locator("#save [value=coco]")).to_be_enabled()
    assert visit.objects[0][0] == ""


def test_a_pasted_picture_and_a_word_that_is_known(visit: Visit):
    """The clipboard's picture is opened; a known word is one click, whose finds take the place of earlier ones."""
    paste = DROP.replace("dataTransfer, bubbles", "clipboardData: dataTransfer, bubbles").replace(
        'DragEvent("drop"', 'ClipboardEvent("paste"'
    )
    visit.page.evaluate(paste, ["", base64.b64encode(CAT).decode()])
    expect(visit.page.locator("#status")).to_contain_text("Ready")
    chip = visit.page.locator("#vocabulary").get_by_role("button", name="cat face", exact=True)
    for _ in range(2):
        chip.click()
        expect(visit.page.locator("#status")).to_contain_text("Found 1")
        visit.settle()
        assert [label for label, _ in visit.objects] == ["cat face"]
    visit.page.locator("#more summary").click()
    visit.page.locator("[name=maxObjects]").fill("3")
    visit.page.get_by_role("button", name="Everything").click()
    expect(visit.page.locator("#status")).to_contain_text("beyond the most objects")
    assert len(visit.objects) == 4


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


def test_a_slow_server_can_be_stopped(visit: Visit):
    """While an answer does not come the page says what it does, for how long, and stops when it is told to."""
    visit.open_sample()
    visit.hold("**/v1/segment:*")
    visit.page.locator("#canvas").click(position=visit.at(200, 120))
    expect(visit.page.locator("#status")).to_have_text("Cutting out …")
    expect(visit.page.locator("#seconds")).to_have_text("2 s")
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
