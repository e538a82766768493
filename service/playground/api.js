// Requests to the service. A refusal becomes a ServiceError with the service's own sentence.

const KEY = "atelier-api-key";
const MAX_LOST_CONNECTIONS = 5;

export class ServiceError extends Error {
  constructor({ message, param = null, code = null }, status = 0, retryAfterSeconds = null) {
    super(message);
    Object.assign(this, { param, code, status, retryAfterSeconds });
  }
}

export class ConnectionLost extends Error {}

export const apiKey = {
  get: () => sessionStorage.getItem(KEY) ?? "",
  set: (key) => (key ? sessionStorage.setItem(KEY, key) : sessionStorage.removeItem(KEY)),
};

// Relative to the page, which a proxy may serve under a prefix.
export const urlOf = (path) => new URL(path, document.baseURI).href;

/** The response, if the service accepts the request. Throws ServiceError, ConnectionLost, or AbortError. */
export async function request(path, { method, json, form, headers = {}, signal } = {}) {
  if (apiKey.get()) headers = { ...headers, Authorization: `Bearer ${apiKey.get()}` };
  if (json !== undefined) headers = { ...headers, "Content-Type": "application/json" };
  method ??= json !== undefined || form ? "POST" : "GET";
  let response;
  try {
    response = await fetch(urlOf(path), { method, headers, signal, body: form ?? JSON.stringify(json) });
  } catch (error) {
    throw lost(error);
  }
  if (response.ok) return response;
  const error = await refusal(response);
  if (error.status === 401) dispatchEvent(new CustomEvent("atelier:key-needed", { detail: error.message }));
  throw error;
}

export const getJson = async (path, options) => (await request(path, options)).json();

async function refusal(response) {
  const found = await response.json().catch(() => null);
  const fallback = { message: `The service answered ${response.status} without a reason.` };
  const seconds = Number.parseFloat(response.headers.get("Retry-After"));
  return new ServiceError(found?.error ?? fallback, response.status, Number.isFinite(seconds) ? seconds : null);
}

function lost(error) {
  if (error.name === "AbortError") return error;
  return new ConnectionLost("The connection to the service was lost.");
}

/** The events of a request for images: previews, then each image. With `files` it is an edit.
 *
 * A full queue, a rate limit or a service that is starting is waited out, and a lost connection is tried again:
 * the seed is in the body, so that the image is the same. `onWait` gets a sentence while that lasts, then null.
 */
export async function* drawing(body, files, { signal, onWait }) {
  const fields = { ...body, stream: true, partial_images: 3 };
  yield* patiently(signal, onWait, async function* () {
    let numLeft = (body.n ?? 1) * (body.styles_each?.length ?? 1);
    const content = files ? { form: formOf(fields, files) } : { json: fields };
    for await (const event of events(await request(pathOf(files), { ...content, signal }))) {
      if (isCompleted(event)) numLeft -= 1;
      yield event;
    }
    if (numLeft > 0) throw lost(new Error("the stream ended early"));
  });
}

export const pathOf = (files) => (files ? "v1/images/edits" : "v1/images/generations");

export const isCompleted = (event) => event.type.endsWith(".completed");

/** A form's fields are text; what is none is written as JSON. */
export const fieldText = (value) => (typeof value === "string" ? value : JSON.stringify(value));

function formOf(fields, files) {
  const form = new FormData();
  for (const [field, { name, blob }] of Object.entries(files)) form.append(field, blob, name);
  for (const [field, value] of Object.entries(fields)) form.append(field, fieldText(value));
  return form;
}

/** What `work()` yields; begun anew after a wait while the service is busy, or the connection was lost. */
export async function* patiently(signal, onWait, work) {
  for (let numLost = 0; ; ) {
    try {
      yield* work();
      return;
    } catch (error) {
      const isLost = error instanceof ConnectionLost;
      const isBusy = (error.status === 429 || error.status === 503) && error.retryAfterSeconds !== null;
      if (!isBusy && !(isLost && ++numLost <= MAX_LOST_CONNECTIONS)) throw error;
      await countdown(isBusy ? error.retryAfterSeconds : 2 ** (numLost - 1), signal, (seconds) =>
        onWait(`${error.message} Trying again in ${seconds} s.`),
      );
      onWait(null);
    }
  }
}

async function countdown(seconds, signal, show) {
  for (let left = Math.max(1, Math.ceil(seconds)); left > 0; left--) {
    show(left);
    await new Promise((resolve, reject) => {
      const stop = () => (clearTimeout(timer), reject(signal.reason));
      const timer = setTimeout(() => (signal.removeEventListener("abort", stop), resolve()), 1000);
      signal.addEventListener("abort", stop, { once: true });
      if (signal.aborted) stop();
    });
  }
}

/** The content of each server-sent event. */
async function* events(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  for (;;) {
    const { value, done } = await reader.read().catch((error) => Promise.reject(lost(error)));
    if (done) break;
    text += value;
    const blocks = text.split("\n\n");
    text = blocks.pop();
    for (const block of blocks) {
      const line = block.split("\n").find((part) => part.startsWith("data: "));
      if (line === undefined) continue; // a comment that keeps the connection open
      const event = JSON.parse(line.slice("data: ".length));
      if (event.error) throw new ServiceError(event.error);
      yield event;
    }
  }
}

export function bytesOf(base64) {
  return Uint8Array.from(atob(base64), (character) => character.charCodeAt(0));
}

/** A warning of the service, which is a sentence's half. */
export const sentence = (warning) => `${warning[0].toUpperCase()}${warning.slice(1)}.`;

// Styles

export const listStyles = (after) =>
  getJson(`v1/styles?limit=100${after ? `&after=${encodeURIComponent(after)}` : ""}`);

export const getStyle = (id) => getJson(`v1/styles/${encodeURIComponent(id)}`);

export const deleteStyle = (id) => getJson(`v1/styles/${encodeURIComponent(id)}`, { method: "DELETE" });

export const renameStyle = (id, name) =>
  getJson(`v1/styles/${encodeURIComponent(id)}`, { method: "PATCH", json: { name: name || null } });

export const createStyle = (json) => getJson("v1/styles", { json });

export function uploadStyle(files, name) {
  const form = new FormData();
  for (const file of files) form.append("image", file, file.name ?? "picture.png");
  if (name) form.append("name", name);
  return getJson("v1/styles", { form });
}

/** The style's picture as a Blob: an `img` could not send the API key. */
export const styleImage = async (id) => (await request(`v1/styles/${encodeURIComponent(id)}/image`)).blob();
