"""The page at `/`, as people use it: a real Chromium, the real gateway, a real server with the built-in model."""

# ruff: noqa: F811 - fixtures are imported

import base64
import io
import json
import zipfile

import numpy as np
import pytest
from conftest import Photo
from page_fixtures import CAT, Visit, ask, browser, pixels, visit  # noqa: F401 - fixtures
from PIL import Image
from playwright.sync_api import expect

pytestmark = pytest.mark.slow
DROP = """([name, data]) => {
  const bytes = Uint8Array.from(atob(data), (letter) => letter.charCodeAt(0));
  const dataTransfer = new DataTransfer();
  dataTransfer.items.add(new File([bytes], name, { type: "image/jpeg" }));
  document.body.dispatchEvent(new DragEvent("drop", { dataTransfer, bubbles: true, cancelable: true }));
}"""


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
