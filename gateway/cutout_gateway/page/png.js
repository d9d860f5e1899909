/** PNG files with a palette: exact, one bit or byte a pixel, without the browser's colour management. */

import { crc32 } from "./crc.js";

const SIGNATURE = [137, 80, 78, 71, 13, 10, 26, 10];
const INDEXED = 3;

/**
 * @param {number} width
 * @param {number} height
 * @param {Uint8Array} indices height * width indices into the palette, row after row.
 * @param {number[][]} palette At most 256 colours, each [red, green, blue].
 * @returns {Promise<Blob>}
 */
export async function indexedPng(width, height, indices, palette) {
  const depth = palette.length === 2 ? 1 : 8; // bits a pixel
  const header = new DataView(new ArrayBuffer(13));
  header.setUint32(0, width);
  header.setUint32(4, height);
  header.setUint8(8, depth);
  header.setUint8(9, INDEXED);
  const parts = [
    new Uint8Array(SIGNATURE),
    chunk("IHDR", new Uint8Array(header.buffer)),
    chunk("PLTE", new Uint8Array(palette.flat())),
    chunk("IDAT", await deflated(rows(width, height, indices, depth))),
    chunk("IEND", new Uint8Array(0)),
  ];
  return new Blob(parts, { type: "image/png" });
}

/** Each begins with its filter, 0: none. Bits are packed with the leftmost pixel in the highest. */
function rows(width, height, indices, depth) {
  const length = 1 + Math.ceil((width * depth) / 8);
  const all = new Uint8Array(length * height);
  for (let row = 0; row < height; row++) {
    const from = row * width;
    const to = row * length + 1;
    if (depth === 8) all.set(indices.subarray(from, from + width), to);
    else for (let x = 0; x < width; x++) if (indices[from + x]) all[to + (x >> 3)] |= 128 >> (x & 7);
  }
  return all;
}

function chunk(name, data) {
  const bytes = new Uint8Array(12 + data.length);
  const view = new DataView(bytes.buffer);
  view.setUint32(0, data.length);
  bytes.set(new TextEncoder().encode(name), 4);
  bytes.set(data, 8);
  view.setUint32(8 + data.length, crc32(bytes.subarray(4, 8 + data.length)));
  return bytes;
}

async function deflated(data) {
  const stream = new Blob([data]).stream().pipeThrough(new CompressionStream("deflate"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}
