// A recipe is the request that draws one image again: as curl, as Python, and inside a PNG file.

import { apiKey, urlOf } from "./api.js";

const PATH = "v1/images/generations";

export function fileName(recipe) {
  const words = recipe.prompt.normalize("NFKD").match(/[a-z0-9]+/gi) ?? ["image"];
  return `${words.join("-").toLowerCase().slice(0, 40)}-${recipe.seed}.png`;
}

const quoted = (text) => `'${text.replaceAll("'", `'\\''`)}'`;

export function curlOf(recipe) {
  const key = apiKey.get() ? ' -H "Authorization: Bearer $ATELIER_API_KEY"' : "";
  return (
    `curl ${urlOf(PATH)}${key} -H 'Content-Type: application/json' -H 'Accept: image/png' ` +
    `-d ${quoted(JSON.stringify(recipe))} -o ${fileName(recipe)}`
  );
}

/** With nothing but the standard library. JSON without true, false and null is also Python. */
export function pythonOf(recipe) {
  const key = apiKey.get() ? '\n    "Authorization": "Bearer " + os.environ["ATELIER_API_KEY"],' : "";
  return `import json
${key ? "import os\n" : ""}import urllib.request
from pathlib import Path

body = ${JSON.stringify(recipe, null, 4)}
headers = {
    "Content-Type": "application/json",
    "Accept": "image/png",${key}
}
request = urllib.request.Request("${urlOf(PATH)}", json.dumps(body).encode(), headers)
with urllib.request.urlopen(request) as response:
    Path("${fileName(recipe)}").write_bytes(response.read())
`;
}

const HEADER_BYTES = 8 + 25; // the signature and the chunk IHDR, after which other chunks may come

/** The PNG file with the recipe as JSON in a text chunk named "parameters"; a signed one as it is.
 *
 * A C2PA manifest, in a chunk named caBX, signs all that is in the file.
 */
export async function withParameters(blob, recipe) {
  if (chunksOf(await blob.arrayBuffer()).includes("caBX")) return blob;
  const utf8 = new TextEncoder();
  const text = utf8.encode(`iTXtparameters\0\0\0\0\0${JSON.stringify(recipe)}`);
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
