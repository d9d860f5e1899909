/** The picture in hand: seen at once, stored by the server once, and encoded before the first click. */

import { FORMATS, Shape } from "./shape.js";

const REDUCED = 2048; // sides of larger pictures while all of them is on the screen: drawing is many times as fast

export class Picture {
  #api;
  #stored = null;
  #reduced = null;

  /**
   * @param {import("./api.js").Api} api
   * @param {Blob} file
   * @param {string} name Of the file, for downloads and code.
   * @param {string} [address] Where the file can be had, if it is one of the samples.
   */
  constructor(api, file, name, address = "") {
    this.#api = api;
    this.file = file;
    this.name = name;
    this.address = address;
  }

  /** Reads it for the screen, upright. */
  async show() {
    try {
      this.bitmap = await createImageBitmap(this.file);
    } catch {
      throw new Error(`This browser cannot show ${this.name}. Save it as JPEG, PNG or WebP and try again.`);
    }
    this.width = this.bitmap.width;
    this.height = this.bitmap.height;
    if (Math.max(this.width, this.height) > 2 * REDUCED) this.#reduced = await reduced(this.bitmap);
  }

  /** What to draw where a pixel is so large on the screen: all of it, or as much of it as can be seen. */
  at(zoom) {
    return this.#reduced && zoom * this.width <= this.#reduced.width ? this.#reduced : this.bitmap;
  }

  /** The file's name without its ending. */
  get stem() {
    return this.name.replace(/\.[^.]*$/, "") || "picture";
  }

  /** Stores it, unless that was done. */
  async upload(signal) {
    this.#stored ??= this.#api.upload(this.file, signal);
    try {
      const stored = await this.#stored;
      if (stored.width !== this.width || stored.height !== this.height) {
        throw new Error(`The server sees ${stored.width} x ${stored.height} pixels, this browser ${this.width} x ${this.height}.`);
      }
      return stored;
    } catch (error) {
      this.#stored = null;
      throw error;
    }
  }

  /** Has it encoded, so that clicks cost the decoder alone; answers the server's timings. */
  async encode(body, signal) {
    const middle = { x: Math.floor(this.width / 2), y: Math.floor(this.height / 2) };
    const answer = await this.#ask("points", { ...body, prompts: [{ points: [middle] }] }, signal, true);
    return answer.timings;
  }

  /**
   * Segments it.
   * @returns {Promise<{shapes: Shape[], omissions: object[], rewriting?: object}>} As the API sorts them.
   */
  async segment(kind, body, signal, patient = true) {
    const asked = { ...body, options: { ...body.options, maskFormats: FORMATS } };
    const answer = await this.#ask(kind, asked, signal, patient);
    const { omissions, rewriting } = answer;
    return { shapes: answer.objects.map((found) => new Shape(found)), omissions, rewriting };
  }

  /** A server that has forgotten the picture, because it was restarted or an hour went by, gets it once more. */
  async #ask(kind, body, signal, patient) {
    for (let first = true; ; first = false) {
      const { imageId } = await this.upload();
      try {
        return await this.#api.segment(kind, { image: { imageId }, ...body }, signal, patient);
      } catch (error) {
        if (!error.pictureForgotten || !first) throw error;
        this.#stored = null;
      }
    }
  }

  close() {
    this.bitmap?.close();
    this.#reduced?.close();
  }
}

function reduced(bitmap) {
  const scale = REDUCED / Math.max(bitmap.width, bitmap.height);
  const size = { resizeWidth: Math.ceil(bitmap.width * scale), resizeHeight: Math.ceil(bitmap.height * scale) };
  return createImageBitmap(bitmap, { ...size, resizeQuality: "high" });
}
