/** What can be taken away: files made here from the API's masks, pixel for pixel. */

import { nameOf, shapeOf } from "./board.js";
import { coco } from "./coco.js";
import { indexedPng } from "./png.js";
import { drawMask } from "./stage.js";
import { zip } from "./zip.js";

const BLACK_AND_WHITE = [[0, 0, 0], [255, 255, 255]];
const MOST_LABELS = 255;

/** The picture inside the masks of objects, transparent elsewhere, cut to their size. */
export async function cutoutPng(picture, objects, inside = union(picture, objects)) {
  const boxes = objects.map((each) => shapeOf(each).box);
  const left = Math.min(...boxes.map((box) => box.xMin));
  const top = Math.min(...boxes.map((box) => box.yMin));
  const width = Math.max(...boxes.map((box) => box.xMax)) - left;
  const height = Math.max(...boxes.map((box) => box.yMax)) - top;
  const canvas = new OffscreenCanvas(width, height);
  const context = canvas.getContext("2d");
  context.drawImage(picture.bitmap, -left, -top);
  const image = context.getImageData(0, 0, width, height);
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < width; x++) {
      if (!inside[(y + top) * picture.width + x + left]) image.data[4 * (y * width + x) + 3] = 0;
    }
  }
  context.putImageData(image, 0, 0);
  return canvas.convertToBlob({ type: "image/png" });
}

/** White inside, black outside, of the picture's size. */
export function maskPng(picture, objects, inside = union(picture, objects)) {
  return indexedPng(picture.width, picture.height, inside, BLACK_AND_WHITE);
}

/** Every pixel has the number of its object, in the order of the list, 0 for none; of two the later is on top. */
export function labelMapPng(picture, objects) {
  if (objects.length > MOST_LABELS) throw new Error(`A label map has room for ${MOST_LABELS} objects; hide some.`);
  const indices = new Uint8Array(picture.width * picture.height);
  objects.forEach((object, i) => {
    const pixels = shapeOf(object).pixels();
    for (let at = 0; at < pixels.length; at++) if (pixels[at]) indices[at] = i + 1;
  });
  const palette = [[0, 0, 0], ...objects.map(({ colour }) => [1, 3, 5].map((at) => parseInt(colour.slice(at, at + 2), 16)))];
  return indexedPng(picture.width, picture.height, indices, palette);
}

/** The picture as it is on the screen, in its own size. */
export async function overlayPng(picture, objects) {
  const canvas = new OffscreenCanvas(picture.width, picture.height);
  const context = canvas.getContext("2d");
  const scale = Math.min(1, 800 / Math.max(picture.width, picture.height)); // lines as on a screen that shows all of it
  context.drawImage(picture.bitmap, 0, 0);
  for (const object of objects) drawMask(context, object, scale, false);
  return canvas.convertToBlob({ type: "image/png" });
}

export async function cocoJson(picture, objects) {
  return new Blob([JSON.stringify(coco(picture, objects), null, 1)], { type: "application/json" });
}

/** All of it, and a cut-out and a mask of every object. */
export async function everything(picture, objects) {
  const files = [
    { name: `${picture.stem}-labels.png`, data: await labelMapPng(picture, objects) },
    { name: `${picture.stem}-overlay.png`, data: await overlayPng(picture, objects) },
    { name: `${picture.stem}-coco.json`, data: await cocoJson(picture, objects) },
  ];
  for (const [i, object] of objects.entries()) {
    const name = `${String(i + 1).padStart(3, "0")}-${fileName(nameOf(object))}.png`;
    const inside = shapeOf(object).pixels();
    files.push({ name: `cutouts/${name}`, data: await cutoutPng(picture, [object], inside) });
    files.push({ name: `masks/${name}`, data: await maskPng(picture, [object], inside) });
  }
  return zip(files);
}

/** A label as a part of a file's name. */
export const fileName = (label) => label.replace(/[^\p{L}\p{N}._-]+/gu, "-").slice(0, 60);

/** Hands a file to the browser's downloads. */
export function save(blob, name) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}

function union(picture, objects) {
  if (objects.length === 1) return shapeOf(objects[0]).pixels();
  const all = new Uint8Array(picture.width * picture.height);
  for (const object of objects) {
    const pixels = shapeOf(object).pixels();
    for (let at = 0; at < pixels.length; at++) all[at] |= pixels[at];
  }
  return all;
}
