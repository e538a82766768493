// A recipe is the request that draws one image again: as curl and as Python.
//
// A result is `{blob, recipe, files, label}`. `recipe` has the fields of the request, and `files` of an edit has
// `{image: {name, blob}, mask: {name, blob}}`, the latter if there is one.

import { apiKey, fieldText, pathOf, urlOf } from "./api.js";

export const titleOf = ({ recipe, files }) => recipe.prompt ?? `${files.image.name}, restyled`;

/** Of the image that the commands write; never that of a file which they read. */
export function fileName({ recipe, files }) {
  const source = recipe.prompt ?? files.image.name.replace(/\.[^.]*$/, "");
  const words = source.normalize("NFKD").match(/[a-z0-9]+/gi) ?? ["image"];
  const name = `${words.join("-").toLowerCase().slice(0, 40)}-${recipe.seed}.png`;
  const isTaken = Object.values(files ?? {}).some((file) => file.name === name);
  return isTaken ? `edited-${name}` : name;
}

/** What a PNG file says of itself: the request, with the names of its files. */
export const parametersOf = ({ recipe, files }) => ({
  ...recipe,
  ...Object.fromEntries(Object.entries(files ?? {}).map(([field, { name }]) => [field, name])),
});

const quoted = (text) => `'${text.replaceAll("'", `'\\''`)}'`;

export function curlOf(result) {
  const { recipe, files } = result;
  const key = apiKey.get() ? ' -H "Authorization: Bearer $ATELIER_API_KEY"' : "";
  const json = () => `-H 'Content-Type: application/json' -d ${quoted(JSON.stringify(recipe))}`;
  const body = files ? formOptions(recipe, files) : json();
  return `curl ${urlOf(pathOf(files))}${key} -H 'Accept: image/png' ${body} -o ${fileName(result)}`;
}

/** `--form-string`, since `-F` would read a file for a text that begins with @ or <. The files' names are safe. */
const formOptions = (recipe, files) =>
  [
    ...Object.entries(files).map(([field, { name }]) => `-F ${field}=@${name}`),
    ...Object.entries(recipe).map(([field, value]) => `--form-string ${quoted(`${field}=${fieldText(value)}`)}`),
  ].join(" ");

/** With nothing but the standard library. JSON without true, false and null is also Python. */
export function pythonOf(result) {
  const { recipe, files } = result;
  const imports = ["json", apiKey.get() && "os", "urllib.request", files && "uuid"].filter(Boolean);
  const key = apiKey.get() ? '\n    "Authorization": "Bearer " + os.environ["ATELIER_API_KEY"],' : "";
  const fields = JSON.stringify(recipe, null, 4);
  const body = files ? pythonForm(fields, files) : `body = json.dumps(${fields}).encode()\n`;
  const type = files ? '"multipart/form-data; boundary=" + boundary' : '"application/json"';
  return `${imports.map((name) => `import ${name}\n`).join("")}from pathlib import Path

${body}headers = {
    "Content-Type": ${type},
    "Accept": "image/png",${key}
}
request = urllib.request.Request("${urlOf(pathOf(files))}", body, headers)
with urllib.request.urlopen(request) as response:
    Path("${fileName(result)}").write_bytes(response.read())
`;
}

function pythonForm(fields, files) {
  const names = Object.fromEntries(Object.entries(files).map(([field, { name }]) => [field, name]));
  return `fields = ${fields}
files = ${JSON.stringify(names, null, 4)}
parts = [
    (f'name="{name}"', (value if isinstance(value, str) else json.dumps(value)).encode())
    for name, value in fields.items()
]
parts += [(f'name="{name}"; filename="{path}"', Path(path).read_bytes()) for name, path in files.items()]
boundary = uuid.uuid4().hex
body = b""
for header, content in parts:
    body += f"--{boundary}\\r\\nContent-Disposition: form-data; {header}\\r\\n\\r\\n".encode() + content + b"\\r\\n"
body += f"--{boundary}--\\r\\n".encode()
`;
}
