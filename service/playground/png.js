// Text inside a PNG file.

const HEADER_BYTES = 8 + 25; // the signature and the chunk IHDR, after which other chunks may come

/** The PNG file with `parameters` as JSON in a text chunk of that name; a signed one as it is.
 *
 * A C2PA manifest, in a chunk named caBX, signs all that is in the file.
 */
export async function withParameters(blob, parameters) {
  if (chunksOf(await blob.arrayBuffer()).includes("caBX")) return blob;
  const utf8 = new TextEncoder();
  const text = utf8.encode(`iTXtparameters\0\0\0\0\0${JSON.stringify(parameters)}`);
  const chunk = new Uint8Array(text.length + 8);
  const view = new DataView(chunk.buffer);
  view.setUint32(0, text.length - 4); // the name of the chunk does not count
  chunk.set(text, 4);
  view.setUint32(text.length + 4, crc32(text));
  return new Blob([blob.slice(0, HEADER_BYTES), chunk, blob.slice(HEADER_BYTES)], { type: "image/png" });
}

function chunksOf(buffer) {
  const view = new DataView(buffer);
  const names = [];
  for (let at = 8; at + 8 <= view.byteLength; at += 12 + view.getUint32(at)) {
    names.push(String.fromCharCode(...new Uint8Array(buffer, at + 4, 4)));
  }
  return names;
}

function crc32(bytes) {
  let crc = ~0;
  for (const byte of bytes) {
    crc ^= byte;
    for (let bit = 0; bit < 8; bit++) crc = (crc >>> 1) ^ (crc & 1 ? 0xedb88320 : 0);
  }
  return ~crc >>> 0;
}

export function save(blob, name) {
  const url = URL.createObjectURL(blob);
  Object.assign(document.createElement("a"), { href: url, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(url), 60_000);
}
