/** "Save": files of the selected object, or of all that can be seen. */

import { nameOf, shapeOf, visible } from "./board.js";
import * as files from "./files.js";
import { $ } from "./page.js";

const KINDS = {
  cutout: { make: files.cutoutPng, ending: "cutout.png", alone: true },
  mask: { make: files.maskPng, ending: "mask.png", alone: true },
  overlay: { make: files.overlayPng, ending: "overlay.png" },
  labels: { make: files.labelMapPng, ending: "labels.png" },
  coco: { make: files.cocoJson, ending: "coco.json" },
  all: { make: files.everything, ending: "cutout.zip" },
};

export class SavePanel {
  #page;

  /** @param {import("./page.js").Page} page */
  constructor(page) {
    this.#page = page;
    page.board.addEventListener("change", () => this.#show());
    for (const button of $("save").querySelectorAll("button")) {
      button.addEventListener("click", () => this.#save(KINDS[button.value]));
    }
  }

  /** A cut-out and a mask are of the selected object, where there is one. */
  #objects({ alone }) {
    const { selected, objects } = this.#page.board;
    return alone && selected && shapeOf(selected) ? [selected] : visible(objects);
  }

  #show() {
    const seen = visible(this.#page.board.objects).length;
    const { selected } = this.#page.board;
    for (const button of $("save").querySelectorAll("button")) {
      button.disabled = !this.#objects(KINDS[button.value]).length;
    }
    const all = seen === 1 ? "the object" : `the ${seen} objects`;
    $("saved").textContent = !seen
      ? "Nothing to save yet."
      : selected && seen > 1
        ? `Cut-out and mask are of ${nameOf(selected)}, all else of ${all} that can be seen.`
        : `Of ${all} that can be seen.`;
  }

  async #save(kind) {
    const { picture, notices } = this.#page;
    const objects = this.#objects(kind);
    const name = kind.alone && objects.length === 1 ? `${picture.stem}-${files.fileName(nameOf(objects[0]))}` : picture.stem;
    const done = notices.busy("Making the file");
    try {
      files.save(await kind.make(picture, objects), `${name}-${kind.ending}`);
    } catch (error) {
      notices.fail(error);
    }
    done();
  }
}
