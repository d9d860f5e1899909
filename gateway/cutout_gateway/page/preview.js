/** What a click here would give, while the pointer rests: one request at a time, and none for a place that it has left. */

import { isAbort } from "./errors.js";

const GAP_MS = 60;
const FAR = 8; // on the screen, in CSS pixels

export class Preview {
  #ask;
  #show;
  #wanted = null;
  #running = null;
  #begun = 0;
  #timer = 0;

  /**
   * @param {(place: object, signal: AbortSignal) => Promise<object|null>} ask
   * @param {(shape: object|null) => void} show
   */
  constructor(ask, show) {
    this.#ask = ask;
    this.#show = show;
  }

  /** @param {{x: number, y: number}} place Of the picture; `left` and `top` are where that is on the screen. */
  at(place) {
    this.#wanted = place;
    if (this.#running && distance(this.#running.place, place) > FAR) this.#running.abort.abort();
    this.#next();
  }

  /** The pointer has left, or something was clicked. */
  stop() {
    this.#wanted = null;
    this.#running?.abort.abort();
    clearTimeout(this.#timer);
    this.#timer = 0;
    this.#show(null);
  }

  #next() {
    if (this.#running || !this.#wanted || this.#timer) return;
    const wait = this.#begun + GAP_MS - performance.now();
    if (wait > 0) {
      this.#timer = setTimeout(() => {
        this.#timer = 0;
        this.#next();
      }, wait);
    } else this.#run(this.#wanted);
  }

  async #run(place) {
    const abort = new AbortController();
    this.#wanted = null;
    this.#running = { place, abort };
    this.#begun = performance.now();
    try {
      const shape = await this.#ask(place, abort.signal);
      if (!abort.signal.aborted) this.#show(shape);
    } catch (error) {
      if (!isAbort(error)) this.#show(null); // a click will say what is wrong
    }
    this.#running = null;
    this.#next();
  }
}

const distance = (a, b) => Math.hypot(a.left - b.left, a.top - b.top);
