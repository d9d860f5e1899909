/** The REST API, as any page could use it: one function for each request, and patience with a server that is away. */

import { ApiError, isAbort } from "./errors.js";

const KEY = "cutout-api-key";
const ASK_AGAIN_MS = 1500;
const MOST_WAITS = 20;

export class Api extends EventTarget {
  /** @param {URL} base What paths such as "v1/models" are relative to. */
  constructor(base) {
    super();
    this.base = base;
    this.away = null; // while the server is away: a promise of its return
    this.askKey = null; // answers whether somebody gave another key
  }

  /** The API key. It stays in this tab: the browser forgets it when the tab is closed. */
  get key() {
    return sessionStorage.getItem(KEY) ?? "";
  }

  set key(value) {
    if (value) sessionStorage.setItem(KEY, value);
    else sessionStorage.removeItem(KEY);
  }

  /** The models that requests may name. */
  async models(signal) {
    return (await this.#json("v1/models", { signal })).models;
  }

  /** Stores a picture; answers its `imageId`, `width` and `height`. */
  upload(file, signal) {
    return this.#json("v1/images", { method: "POST", body: file, signal });
  }

  /**
   * Segments a stored picture.
   * @param {"text"|"points"|"everything"} kind
   * @param {object} body The request, its image included.
   * @param {AbortSignal} [signal] Gives the request up; the server then stops working on it.
   * @param {boolean} [patient] Whether to wait for a server that is away or busy.
   */
  segment(kind, body, signal, patient = true) {
    const headers = { "content-type": "application/json" };
    return this.#json(`v1/segment:${kind}`, { method: "POST", headers, body: JSON.stringify(body), signal }, patient);
  }

  async #json(path, init, patient = true) {
    for (let waits = 0; ; waits++) {
      try {
        return await this.#once(path, init);
      } catch (error) {
        if (isAbort(error) || !patient) throw error;
        if (error.needsKey && (await this.askKey?.())) continue;
        if (error.unreachable) await this.#return(init.signal);
        else if (error.busy && waits < MOST_WAITS) await sleep(1000 * (error.retryAfterSeconds || 1), init.signal);
        else throw error;
      }
    }
  }

  async #once(path, init) {
    const headers = { ...init.headers, ...(this.key && { "x-api-key": this.key }) };
    let answer;
    let body;
    try {
      answer = await fetch(new URL(path, this.base), { ...init, headers, cache: "no-store" });
      body = await answer.json();
    } catch (error) {
      if (isAbort(error)) throw error;
      if (answer && !(error instanceof SyntaxError)) throw new ApiError(0, { message: "The answer broke off." });
      if (!answer) throw new ApiError(0, { message: "The server does not answer." });
    }
    if (!answer.ok) throw new ApiError(answer.status, body);
    return body;
  }

  /** Waits until the server is there again; everyone waits for the same. Says "away" and "back". */
  async #return(signal) {
    this.away ??= this.#watch();
    await abortable(this.away, signal);
  }

  async #watch() {
    this.dispatchEvent(new Event("away"));
    do await sleep(ASK_AGAIN_MS);
    while (!(await this.#isReady()));
    this.away = null;
    this.dispatchEvent(new Event("back"));
  }

  async #isReady() {
    try {
      return (await fetch(new URL("readyz", this.base), { cache: "no-store" })).ok;
    } catch {
      return false;
    }
  }
}

function sleep(milliseconds, signal) {
  return abortable(new Promise((done) => setTimeout(done, milliseconds)), signal);
}

function abortable(promise, signal) {
  if (!signal) return promise;
  signal.throwIfAborted();
  return new Promise((resolve, reject) => {
    const leave = () => reject(signal.reason);
    signal.addEventListener("abort", leave, { once: true });
    promise.then(resolve, reject).finally(() => signal.removeEventListener("abort", leave));
  });
}
