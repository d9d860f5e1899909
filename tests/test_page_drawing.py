"""When the page draws, counted in frames of a real Chromium."""

# ruff: noqa: F811 - fixtures are imported

from collections.abc import Iterator

import numpy as np
import pytest
from page_fixtures import PAGE, Visit, ask, browser, pixels, visiting  # noqa: F401
from playwright.sync_api import Browser

pytestmark = pytest.mark.slow

# From the moment at which the page has the answer's body: how many frames have been drawn when a pixel has changed.
# The message comes after everything that is done within the frame.
COUNT_FRAMES = """([x, y]) => {
  const context = document.querySelector("#canvas").getContext("2d");
  const colour = () => [...context.getImageData(x * devicePixelRatio, y * devicePixelRatio, 1, 1).data];
  const frameIsDrawn = () => new Promise((go) => requestAnimationFrame(() => {
    const { port1, port2 } = new MessageChannel();
    port1.onmessage = go;
    port2.postMessage(null);
  }));
  const json = Response.prototype.json;
  window.counts = [];
  Response.prototype.json = async function () {
    const body = await json.call(this);
    if (body.objects?.length) {
      const before = colour();
      (async () => {
        for (let count = 1; ; count++) {
          await frameIsDrawn();
          if (colour().some((value, i) => Math.abs(value - before[i]) > 20)) return counts.push(count);
        }
      })();
    }
    return body;
  };
}"""


@pytest.fixture
def visit(browser: Browser, gateway_url: str) -> Iterator[Visit]:
    with visiting(browser, gateway_url) as looking:
        yield looking


@pytest.mark.parametrize("how", ["words", "box"])
def test_a_mask_is_seen_within_a_frame_of_its_arrival(visit: Visit, how: str):
    """The frame after the answer has come shows its mask, whichever way it was asked for."""
    visit.open_sample()
    box = {"xMin": 60, "yMin": 20, "xMax": 400, "yMax": 290}
    picture = (PAGE / "samples/cat.jpg").read_bytes()
    asked = {"phrases": ["cat face"]} if how == "words" else {"prompts": [{"box": box}]}
    [found] = ask(visit.url, "text" if how == "words" else "points", picture, **asked)
    inside = np.argwhere(pixels(found))
    y, x = inside[len(inside) // 2]
    place = visit.at(x, y)
    visit.page.evaluate(COUNT_FRAMES, [place["x"], place["y"]])
    if how == "words":
        visit.find("cat face")
    else:
        visit.drag(60, 20, 400, 290)
    visit.page.wait_for_function("() => counts.length")
    assert visit.page.evaluate("counts") == [1]
