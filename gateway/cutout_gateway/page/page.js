/** What all parts of the page share. */

import { Api } from "./api.js";
import { Board } from "./board.js";
import { Notices } from "./notices.js";
import { Settings } from "./settings.js";
import { Stage } from "./stage.js";

export const $ = (id) => document.getElementById(id);

/** The value of a group of radio buttons. */
export const checked = (name) => document.querySelector(`input[name=${name}]:checked`).value;

export class Page {
  server = new URL(".", document.baseURI);
  api = new Api(this.server);
  notices = new Notices($("notices"));
  settings = new Settings($("settings"));
  board = new Board();
  stage = new Stage($("canvas"));
  /** @type {import("./picture.js").Picture|null} */
  picture = null;
  work = new AbortController(); // ends when another picture comes
  #models = null;

  /** Learns once what models there are. */
  async learnModels() {
    this.#models ??= this.api.models();
    try {
      this.settings.offer(await this.#models);
    } catch (error) {
      this.#models = null; // asked again with the next picture
      throw error;
    }
  }

  /** "in", "out", "box" or "move". */
  get tool() {
    return checked("tool");
  }

  set tool(value) {
    const radio = document.querySelector(`input[name=tool][value=${value}]`);
    radio.checked = true;
    radio.dispatchEvent(new Event("change", { bubbles: true }));
  }
}
