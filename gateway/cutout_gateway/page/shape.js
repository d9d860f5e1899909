/** One mask of an answer: its figures, its pixels, and its outline, which stays sharp at any size. */

import { decode } from "./rle.js";

/** The encodings that the page asks for: pixels for files, outlines for the screen. */
export const FORMATS = ["MASK_FORMAT_RLE", "MASK_FORMAT_POLYGONS"];

export class Shape {
  #paths = new Map();

  /** @param {object} found A SegmentedObject of the API, with masks in FORMATS. */
  constructor(found) {
    this.label = found.label;
    this.box = found.box;
    this.area = found.area;
    this.rle = found.masks.find((mask) => mask.rle)?.rle;
    this.polygons = found.masks.find((mask) => mask.polygons)?.polygons;
    // As the Python client has it: how sure the detector is, where there was one, else the segmenter's own estimate.
    this.score = found.detectionScore ?? found.predictedIou;
    this.scoreMeans = found.detectionScore === undefined ? "estimated IoU of the mask" : "the detector's confidence";
  }

  /**
   * The outline as a Path2D in pixels of the picture; fill it by the rule "evenodd".
   * @param {number} scale How large a pixel will be on the screen. Where that is small, steps that nobody could see are
   *   left out, which makes large pictures fast; from half a pixel on the outline is exact.
   */
  path(scale = 1) {
    const step = scale >= 0.5 ? 0 : 2 ** Math.floor(Math.log2(1 / scale));
    if (!this.#paths.has(step)) this.#paths.set(step, outline(this.polygons, step));
    return this.#paths.get(step);
  }

  /** height * width values, row after row; 1 is inside. Decoded when asked: of many objects they would fill the memory. */
  pixels() {
    return decode(this.rle);
  }
}

function outline({ polygons }, step) {
  const path = new Path2D();
  for (const { exterior, holes } of polygons) {
    for (const { coordinates } of [exterior, ...holes]) {
      let [x, y] = coordinates;
      path.moveTo(x, y);
      for (let i = 2; i < coordinates.length; i += 2) {
        if (Math.abs(coordinates[i] - x) + Math.abs(coordinates[i + 1] - y) < step) continue;
        [x, y] = [coordinates[i], coordinates[i + 1]];
        path.lineTo(x, y);
      }
      path.closePath();
    }
  }
  return path;
}
