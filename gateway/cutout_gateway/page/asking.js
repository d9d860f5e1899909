/** Asks for the cuts on the board that have no answer, and gives up those that are no longer on it. */

import { isAbort } from "./errors.js";

export class Asking {
  #board;
  #picture;
  #report;
  #running = new Map(); // AbortController by cut

  /**
   * @param {import("./board.js").Board} board
   * @param {() => import("./picture.js").Picture} picture
   * @param {object} report Of `busy(text, stop)`, which answers what to call in the end, `nothing(omissions)`, `failed(error)`
   *   and `took(milliseconds)`.
   */
  constructor(board, picture, report) {
    this.#board = board;
    this.#picture = picture;
    this.#report = report;
    board.addEventListener("change", () => this.#sync());
  }

  #sync() {
    const lacking = new Set(this.#board.objects.map(({ cut }) => cut).filter(({ shapes }) => !shapes));
    for (const [cut, abort] of this.#running) {
      if (lacking.has(cut)) continue;
      this.#running.delete(cut);
      abort.abort();
    }
    for (const cut of lacking) if (!this.#running.has(cut)) this.#ask(cut);
  }

  async #ask(cut) {
    const abort = new AbortController();
    this.#running.set(cut, abort);
    const done = this.#report.busy("Cutting out", () => this.#board.forget(cut));
    const begun = performance.now();
    try {
      const { shapes, omissions } = await this.#picture().segment(cut.kind, cut.body, abort.signal);
      if (abort.signal.aborted) return;
      this.#running.delete(cut);
      this.#report.took(performance.now() - begun);
      if (shapes.length) this.#board.answered(cut, shapes);
      else {
        this.#board.forget(cut);
        this.#report.nothing(omissions);
      }
    } catch (error) {
      if (isAbort(error)) return;
      this.#running.delete(cut);
      this.#board.forget(cut);
      this.#report.failed(error);
    } finally {
      done();
    }
  }
}
