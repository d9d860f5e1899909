/** "Find": objects by words, and everything. */

import { isAbort } from "./errors.js";
import { omitted, rewritten } from "./omissions.js";
import { $ } from "./page.js";

export class FindPanel {
  #page;
  #search = null;

  /** @param {import("./page.js").Page} page */
  constructor(page) {
    this.#page = page;
    $("find").addEventListener("submit", (event) => {
      event.preventDefault();
      this.#words($("phrases").value);
    });
    $("vocabulary").addEventListener("keydown", step);
    $("everything").addEventListener("click", () => this.#everything());
    page.settings.form.addEventListener("change", () => this.#offer());
    page.settings.form.addEventListener("reset", () => setTimeout(() => this.#offer()));
  }

  /** What the models can find; the only words that they know as buttons. */
  #offer() {
    const { settings } = this.#page;
    $("everything").disabled = !settings.canFindEverything;
    $("phrases").disabled = $("find").querySelector(".primary").disabled = !settings.canFindWords;
    $("vocabulary").hidden = !settings.vocabulary.length;
    const chips = settings.vocabulary.map((word, i) => this.#chip(word, i ? -1 : 0));
    $("vocabulary").querySelector("ul").replaceChildren(...chips);
  }

  #chip(word, tabIndex) {
    const button = Object.assign(document.createElement("button"), { type: "button", textContent: word, tabIndex });
    button.addEventListener("click", () => {
      $("phrases").value = word;
      this.#words(word);
    });
    const item = document.createElement("li");
    item.append(button);
    return item;
  }

  #words(text) {
    const { settings } = this.#page;
    const parts = settings.rewrites ? [text] : text.split(/[,;\n]/); // commas are a part of sentences
    const phrases = parts.map((each) => each.trim()).filter(Boolean);
    if (!phrases.length) return $("phrases").focus();
    const labels = new Set(phrases.map((each) => each.toLowerCase()));
    const isSame = (before) => String(before) === String(phrases); // though a language model found other words for them
    const isOutdated = ({ kind, body, shapes }) => kind === "text" && (labels.has(shapes[0].label.toLowerCase()) || isSame(body.phrases));
    const body = { phrases, ...settings.forText() };
    return this.#find("text", body, `Looking for ${phrases.join(", ")}`, isOutdated);
  }

  #everything() {
    const body = this.#page.settings.forEverything();
    return this.#find("everything", body, "Looking for everything", ({ kind }) => kind === "everything");
  }

  /** One search at a time: the next gives the one before up. */
  async #find(kind, body, text, isOutdated) {
    const { picture, board, notices, work } = this.#page;
    this.#search?.abort();
    const search = (this.#search = new AbortController());
    const signal = AbortSignal.any([search.signal, work.signal]);
    notices.clear();
    const done = notices.busy(text, () => search.abort());
    try {
      const { shapes, omissions, rewriting } = await picture.segment(kind, body, signal);
      signal.throwIfAborted();
      board.addFound(shapes.map((shape) => ({ kind, body, shapes: [shape] })), isOutdated);
      const found = shapes.length ? `Found ${shapes.length}.` : "Nothing was found.";
      done([...rewritten(rewriting), found, ...omitted(omissions)].join(" "));
    } catch (error) {
      done(isAbort(error) && search === this.#search ? "Stopped." : "");
      if (!isAbort(error)) notices.fail(error);
    }
  }
}

/** Dozens of words are one stop of the Tab key; arrows go from one to the next. */
function step(event) {
  const by = { ArrowLeft: -1, ArrowUp: -1, ArrowRight: 1, ArrowDown: 1 }[event.key];
  if (!by) return;
  event.preventDefault();
  const words = [...event.currentTarget.querySelectorAll("button")];
  const next = words.at((words.indexOf(event.target) + by) % words.length);
  event.target.tabIndex = -1;
  next.tabIndex = 0;
  next.focus();
}
