/** A picture comes: it is shown at once, then uploaded and encoded, so that the first click is as fast as all others. */

import { isAbort } from "./errors.js";
import { $ } from "./page.js";
import { Picture } from "./picture.js";

export class Opening {
  #page;
  #clicks;
  #coming = null; // the picture that was chosen last

  /**
   * @param {import("./page.js").Page} page
   * @param {import("./clicks.js").Clicks} clicks
   */
  constructor(page, clicks) {
    this.#page = page;
    this.#clicks = clicks;
  }

  /** Takes a file in place of the picture before it. */
  async open(file, name, address) {
    const next = (this.#coming = new Picture(this.#page.api, file, name, address));
    $("start-problem").textContent = "";
    try {
      await next.show();
    } catch (error) {
      if (next !== this.#coming) return;
      this.showStart(true);
      $("start-problem").textContent = error.message;
      return;
    }
    if (next !== this.#coming) return next.close(); // a large one takes seconds, in which another was chosen
    this.#leave();
    this.#page.picture = next;
    $("frame").style.setProperty("--ratio", next.width / next.height);
    this.showStart(false);
    this.#page.stage.show(next);
    $("canvas").setAttribute("aria-label", `Picture ${name}, ${next.width} by ${next.height} pixels`);
    await this.prepare();
  }

  /** Between the first screen and the picture. */
  showStart(shown) {
    $("start").hidden = !shown;
    $("work").hidden = $("panel").hidden = $("another").hidden = shown;
    $("back").hidden = !shown || !this.#page.picture;
    document.body.classList.toggle("working", !shown);
    if (!shown) $("canvas").focus({ preventScroll: true });
  }

  /** Uploads and encodes, and says when it is done. */
  async prepare() {
    const { picture, settings, notices, work } = this.#page;
    const { signal } = work;
    this.#clicks.pace = Infinity;
    let done = notices.busy("Uploading the picture");
    try {
      await picture.upload(signal);
      await this.#page.learnModels();
      signal.throwIfAborted();
      done();
      done = notices.busy("Reading the picture");
      if (settings.canSegment) {
        const timings = await picture.encode(settings.forPoints(), signal);
        const begun = performance.now();
        await picture.encode(settings.forPoints(), signal);
        this.#clicks.pace = performance.now() - begun;
        done(readIn(timings));
      } else done("Ready.");
    } catch (error) {
      done();
      if (!isAbort(error)) notices.fail(error);
    }
  }

  #leave() {
    const page = this.#page;
    page.work.abort();
    page.work = new AbortController();
    this.#clicks.stopPreview();
    page.board.clear();
    page.notices.clear();
    page.picture?.close();
  }
}

function readIn({ embeddingCached, decodeMs, encodeMs }) {
  if (embeddingCached) return "Ready: the server knew this picture.";
  const milliseconds = decodeMs + encodeMs;
  const time = milliseconds < 1000 ? `${Math.ceil(milliseconds)} ms` : `${(milliseconds / 1000).toFixed(1)} s`;
  return `Ready: read in ${time}.`;
}
