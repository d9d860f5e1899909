/** "As code": the objects that can be seen, as a program in the language that was chosen. */

import { visible } from "./board.js";
import { LANGUAGES, questions } from "./code.js";
import { $, checked } from "./page.js";

export class CodePanel {
  #page;
  #text = $("code").querySelector("code");

  /** @param {import("./page.js").Page} page */
  constructor(page) {
    this.#page = page;
    page.board.addEventListener("change", () => this.#show());
    $("code").addEventListener("change", () => this.#show());
    $("copy").addEventListener("click", () => this.#copy());
  }

  #show() {
    const { server, api, board, picture } = this.#page;
    const asked = questions(visible(board.objects));
    const { name: file, address } = picture ?? {};
    const scene = { server, file, address, withKey: Boolean(api.key), questions: asked };
    this.#text.textContent = asked.length ? LANGUAGES[checked("language")](scene) : "Nothing is cut out yet.";
    $("copy").disabled = !asked.length;
    $("copied").textContent = "";
  }

  /** Browsers lend the clipboard to pages over HTTPS and from this machine alone; elsewhere the text is selected. */
  async #copy() {
    try {
      await navigator.clipboard.writeText(this.#text.textContent);
      $("copied").textContent = "Copied.";
    } catch {
      getSelection().selectAllChildren(this.#text);
      $("copied").textContent = "Selected: press Ctrl+C.";
    }
  }
}
