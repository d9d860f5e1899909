/** One mask of an answer: its figures, its pixels, and its outline, which stays sharp at any size. */

import { decode } from "./rle.js";

/** The encodings that the page asks for: pixels for files, outlines for the screen. */
export const FORMATS = ["MASK_FORMAT_RLE", "MASK_FORMAT_POLYGONS"];

export class Shape {
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

  /** A Path2D in pixels of the picture; fill it by the rule "evenodd". */
  get path() {
    this.drawn ??= outline(this.polygons);
    return this.drawn;
  }

  /** height * width values, row after row; 1 is inside. */
  get pixels() {
    this.decoded ??= decode(this.rle);
    return this.decoded;
  }
}

function outline({ polygons }) {
  const path = new Path2D();
  for (const { exterior, holes } of polygons) {
    for (const { coordinates } of [exterior, ...holes]) {
      path.moveTo(coordinates[0], coordinates[1]);
      for (let i = 2; i < coordinates.length; i += 2) path.lineTo(coordinates[i], coordinates[i + 1]);
      path.closePath();
    }
  }
  return path;
}
