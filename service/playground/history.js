// The list "History", and what is in it.

import { forgetAll, forgetResult, keepResult, loadResults } from "./history_store.js";
import { html, useEffect, useObjectUrl, useState } from "./html.js";
import { titleOf } from "./recipes.js";

export function useHistory() {
  const [results, setResults] = useState([]);
  useEffect(() => void loadResults().then(setResults, () => {}), []); // a private window may keep nothing
  return {
    results,
    async keep(result) {
      const kept = await keepResult(result).catch(() => result);
      setResults((now) => [kept, ...now]);
    },
    async forget({ id }) {
      await forgetResult(id);
      setResults((now) => now.filter((one) => one.id !== id));
    },
    async clear() {
      await forgetAll();
      setResults([]);
    },
  };
}

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
  const label = `${titleOf(result)}, ${result.label}, seed ${result.recipe.seed}`;
  return html`
    <li>
      <button type="button" aria-label=${label} title=${label} onClick=${() => onOpen(result)}>
        <img src=${useObjectUrl(result.blob)} alt="" width="96" height="96" loading="lazy" />
      </button>
    </li>
  `;
}
