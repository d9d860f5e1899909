/** ZIP archives whose files are stored as they are: pictures are compressed already. */

import { crc32 } from "./crc.js";

const VERSION = 20;
const UTF8 = 0x0800;
const MIDNIGHT_OF_1980 = [0, 0x21]; // time and date in the form of MS-DOS

/**
 * @param {{name: string, data: Blob}[]} files
 * @returns {Promise<Blob>}
 */
export async function zip(files) {
  const parts = [];
  const directory = [];
  let offset = 0;
  for (const { name, data } of files) {
    const bytes = new Uint8Array(await data.arrayBuffer());
    const path = new TextEncoder().encode(name);
    const facts = [u16(VERSION), u16(UTF8), u16(0), ...MIDNIGHT_OF_1980.map(u16), u32(crc32(bytes))];
    facts.push(u32(bytes.length), u32(bytes.length), u16(path.length), u16(0));
    const local = [u32(0x04034b50), ...facts, path, bytes];
    directory.push(u32(0x02014b50), u16(VERSION), ...facts, u16(0), u16(0), u16(0), u32(0), u32(offset), path);
    parts.push(...local);
    offset += size(local);
  }
  const end = [u32(0x06054b50), u16(0), u16(0), u16(files.length), u16(files.length), u32(size(directory)), u32(offset)];
  return new Blob([...parts, ...directory, ...end, u16(0)], { type: "application/zip" });
}

const u16 = (value) => new Uint8Array([value & 255, value >>> 8]);
const u32 = (value) => new Uint8Array([value & 255, (value >>> 8) & 255, (value >>> 16) & 255, value >>> 24]);
const size = (parts) => parts.reduce((sum, part) => sum + part.length, 0);
