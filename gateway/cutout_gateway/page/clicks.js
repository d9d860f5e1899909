/** Clicks and boxes become prompts: of a new object, or of the selected one; and so does, ahead of a click, the mouse. */

import { shapeOf } from "./board.js";
import { $ } from "./page.js";
import { Pointer } from "./pointer.js";
import { Preview } from "./preview.js";

const FAST_MS = 250; // a preview that takes longer is in the way

export class Clicks {
  #page;
  #preview;
  #pace = Infinity;

  /** @param {import("./page.js").Page} page */
  constructor(page) {
    this.#page = page;
    const { stage } = page;
    this.#preview = new Preview(
      (place, signal) => this.#ahead(place, signal),
      (shape) => {
        stage.preview = shape;
        stage.redraw();
      },
    );
    new Pointer(stage, () => page.tool, {
      click: (place, label) => this.#click(place, label),
      box: (box) => this.#box(box),
      hover: (place) => this.#hover(place),
    });
  }

  /** Milliseconds from a click to its mask. */
  get pace() {
    return this.#pace;
  }

  set pace(milliseconds) {
    this.#pace = milliseconds;
    $("pace").textContent = Number.isFinite(milliseconds) ? `A click takes ${Math.round(milliseconds)} ms now.` : "";
  }

  stopPreview() {
    this.#preview.stop();
  }

  #click(place, label) {
    const { board, notices } = this.#page;
    this.stopPreview();
    notices.clear();
    if (!board.selected && !label) return notices.say("Nothing is selected from which this could be taken away.");
    const cut = this.#cut(this.#promptWith(place, label));
    if (board.selected) board.refine(cut);
    else board.add(cut);
  }

  #box(box) {
    this.stopPreview();
    this.#page.notices.clear();
    this.#page.board.add(this.#cut({ points: [], box }));
  }

  #hover(place) {
    const { settings, tool, board, notices } = this.#page;
    const wanted = settings.preview === "always" || (settings.preview === "auto" && this.#pace < FAST_MS);
    const useful = tool === "in" || (tool === "out" && board.selected);
    if (place && wanted && useful && !notices.isBusy) this.#preview.at(place);
    else this.stopPreview();
  }

  /** The mask that a click here would give. */
  async #ahead(place, signal) {
    const { body } = this.#cut(this.#promptWith(place, this.#page.tool === "out" ? 0 : 1));
    const begun = performance.now();
    const { shapes } = await this.#page.picture.segment("points", body, signal, false);
    this.pace = performance.now() - begun;
    return shapes[0] ?? null;
  }

  /** The selected object's prompt with one more click. What words found is begun from its box. */
  #promptWith({ x, y }, label) {
    const { selected } = this.#page.board;
    const points = [...(selected?.cut.prompt?.points ?? []), { x, y, label }];
    const box = selected && (selected.cut.prompt ? selected.cut.prompt.box : shapeOf(selected)?.box);
    return box ? { points, box } : { points };
  }

  #cut(prompt) {
    return { kind: "points", prompt, body: { prompts: [prompt], ...this.#page.settings.forPoints() } };
  }
}
