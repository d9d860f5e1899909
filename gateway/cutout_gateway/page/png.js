/** PNG files with a palette: exact, one byte a pixel, without the browser's colour management. */

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
  const rows = new Uint8Array((width + 1) * height); // each begins with its filter, 0: none
  for (let row = 0; row < height; row++) {
    rows.set(indices.subarray(row * width, (row + 1) * width), row * (width + 1) + 1);
  }
  const header = new DataView(new ArrayBuffer(13));
  header.setUint32(0, width);
  header.setUint32(4, height);
  header.setUint8(8, 8); // bits
  header.setUint8(9, INDEXED);
  const parts = [
    new Uint8Array(SIGNATURE),
    chunk("IHDR", new Uint8Array(header.buffer)),
    chunk("PLTE", new Uint8Array(palette.flat())),
    chunk("IDAT", await deflated(rows)),
    chunk("IEND", new Uint8Array(0)),
  ];
  return new Blob(parts, { type: "image/png" });
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
