// The results of before, in IndexedDB: nothing leaves the browser.

import { html, useObjectUrl, useState } from "./html.js";

const STORE = "results";
const MAX_RESULTS = 200;

function promised(request) {
  return new Promise((resolve, reject) => {
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });
}

async function store(mode) {
  const opening = indexedDB.open("atelier", 1);
  opening.onupgradeneeded = () => opening.result.createObjectStore(STORE, { keyPath: "id", autoIncrement: true });
  const database = await promised(opening);
  const transaction = database.transaction(STORE, mode);
  transaction.oncomplete = () => database.close();
  return transaction.objectStore(STORE);
}

/** The newest first. */
export async function loadResults() {
  return (await promised((await store("readonly")).getAll())).reverse();
}

/** The result with its ID; the oldest results beyond MAX_RESULTS go. */
export async function keepResult(result) {
  const results = await store("readwrite");
  const id = await promised(results.add(result));
  const ids = await promised(results.getAllKeys());
  for (const old of ids.slice(0, Math.max(0, ids.length - MAX_RESULTS))) results.delete(old);
  return { ...result, id };
}

export const forgetResult = async (id) => promised((await store("readwrite")).delete(id));

export const forgetAll = async () => promised((await store("readwrite")).clear());

export function History({ results, onOpen, onForgetAll }) {
  const [isAsking, ask] = useState(false);
  if (results.length === 0) return null;
  const clear = () => {
    if (isAsking) onForgetAll();
    ask(!isAsking);
  };
  return html`
    <section class="history" aria-labelledby="history-title">
      <header>
        <h2 id="history-title">History</h2>
        <p class="quiet">Kept in this browser alone.</p>
        <button type="button" class="plain" onClick=${clear} onBlur=${() => ask(false)}>
          ${isAsking ? "Really clear it?" : "Clear history"}
        </button>
      </header>
      <ul aria-label="History">
        ${results.map((result) => html`<${Entry} key=${result.id} result=${result} onOpen=${onOpen} />`)}
      </ul>
    </section>
  `;
}

function Entry({ result, onOpen }) {
  const { prompt, seed } = result.recipe;
  const label = `${prompt}, ${result.label}, seed ${seed}`;
  return html`
    <li>
      <button type="button" aria-label=${label} title=${label} onClick=${() => onOpen(result)}>
        <img src=${useObjectUrl(result.blob)} alt="" width="96" height="96" loading="lazy" />
      </button>
    </li>
  `;
}
