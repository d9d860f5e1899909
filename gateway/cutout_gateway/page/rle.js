/** COCO's compressed run-length encoding, as `pycocotools.mask.decode` reads it. */

/**
 * Decodes a mask.
 * @param {{size: number[], counts: string}} rle [height, width], and run lengths in column-major order.
 * @returns {Uint8Array} height * width values, row after row; 1 is inside.
 */
export function decode({ size: [height, width], counts }) {
  const mask = new Uint8Array(height * width);
  let at = 0; // counted down the columns
  let inside = false;
  for (const length of runs(counts)) {
    for (let i = at; inside && i < at + length; ) {
      const column = Math.floor(i / height);
      const end = Math.min(at + length, (column + 1) * height);
      for (let pixel = (i - column * height) * width + column; i < end; i++, pixel += width) mask[pixel] = 1;
    }
    at += length;
    inside = !inside;
  }
  return mask;
}

/**
 * The run lengths in COCO's text: five bits a character, the sixth says that more follow, and from the fourth run on
 * each is written as the difference to the one before the last.
 */
function runs(text) {
  const lengths = [];
  for (let i = 0; i < text.length; ) {
    let value = 0;
    let shift = 0;
    let bits;
    do {
      bits = text.charCodeAt(i++) - 48;
      value |= (bits & 31) << shift;
      shift += 5;
    } while (bits & 32);
    if (bits & 16 && shift < 32) value |= -1 << shift;
    if (lengths.length > 2) value += lengths[lengths.length - 2];
    lengths.push(value);
  }
  return lengths;
}
