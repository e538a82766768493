// The page as a whole: loads the model, the styles and the history, and passes them to its parts.

import * as api from "./api.js";
import { Composer, useDrawing } from "./draw.js";
import { forgetAll, forgetResult, History, keepResult, loadResults } from "./history.js";
import { html, render, useEffect, useState } from "./html.js";
import { drag, PictureDialog, Results } from "./results.js";
import { picturesOf, Styles } from "./styles.js";

function App() {
  const [model, setModel] = useState(null);
  const [notice, setNotice] = useState("");
  const [error, setError] = useState(null);
  const [opened, open] = useState(null);
  const history = useHistory();
  const styles = useStyles();
  const [set, draw, cancel] = useDrawing({ model, onResult: history.keep, onError: setError });

  const load = () =>
    loaded(setNotice, async () => {
      const [models] = await Promise.all([api.getJson("v1/models"), styles.load()]);
      setModel(models.data[0]);
    });
  useEffect(() => void load(), []);
  useIncomingPictures(styles.add);

  const useAsStyle = async (result) => {
    open(null);
    await styles.add({ files: [result.blob], name: result.recipe.prompt.slice(0, 200) });
  };
  const forget = async (result) => {
    open(null);
    await history.forget(result);
  };
  return html`
    <header class="top">
      <h1><img src="playground/icon.svg" alt="" width="28" height="28" /> Atelier</h1>
      <p class="quiet">${model && `${model.id}, ${model.default_size.replace("x", " × ")}`}</p>
      <nav aria-label="Service"><a href="docs">API reference</a></nav>
    </header>
    <${KeyForm} onKey=${load} />
    <p class="notice" role="status">${notice}</p>
    <main>
      <${Styles} ...${styles} onAdd=${styles.add} onMore=${styles.more} onToggle=${styles.toggle}
        onChange=${styles.change} onDelete=${styles.remove} />
      <div class="work">
        <${Composer} model=${model} styles=${styles.styles} chosen=${styles.chosen} setChosen=${styles.setChosen}
          isRunning=${Boolean(set?.isRunning)} error=${error} onDraw=${draw} onError=${setError} />
        <${Results} set=${set} onCancel=${cancel} onUseAsStyle=${useAsStyle} onOpen=${open} />
        <${History} results=${history.results} onOpen=${open} onForgetAll=${history.clear} />
      </div>
    </main>
    ${opened &&
    html`<${PictureDialog} result=${opened} onClose=${() => open(null)} onUseAsStyle=${useAsStyle} onForget=${forget} />`}
  `;
}

/** Runs `work`, waiting while the service starts; a sentence says what keeps it. */
async function loaded(setNotice, work) {
  const { signal } = new AbortController();
  const attempt = async function* () {
    yield await work();
  };
  try {
    for await (const _ of api.patiently(signal, (text) => setNotice(text ?? ""), attempt));
    setNotice("");
  } catch (error) {
    setNotice(error.status === 401 ? "" : error.message);
  }
}

function useStyles() {
  const [styles, setStyles] = useState([]);
  const [chosen, setChosen] = useState([]);
  const [hasMore, setHasMore] = useState(false);
  const [adding, setAdding] = useState({ isBusy: false, message: "" });

  const page = async (before, after) => {
    const found = await api.listStyles(after);
    setStyles([...before, ...found.data]);
    setHasMore(found.has_more);
  };
  const put = (style) => setStyles((now) => [style, ...now.filter(({ id }) => id !== style.id)]);

  /** Of `{files, name, isOne}` or `{json}`: whether all of it was added. */
  const add = async ({ files = [], name, isOne = false, json }) => {
    const creations = json
      ? [() => api.createStyle(json)]
      : isOne && files.length > 0
        ? [() => api.uploadStyle(files, name ?? nameOfFile(files[0]))]
        : files.map((file) => () => api.uploadStyle([file], name ?? nameOfFile(file)));
    setAdding({ isBusy: true, message: "" });
    try {
      for (const create of creations) {
        const style = await create();
        put(style);
        setChosen([{ id: style.id, style, weight: 1 }]);
      }
      const isNothing = creations.length === 0;
      setAdding({ isBusy: false, message: isNothing ? "That was no picture; PNG, JPEG, WebP and GIF are." : "" });
      return !isNothing;
    } catch (error) {
      setAdding({ isBusy: false, message: error.message });
      return false;
    }
  };
  const isIn = (style) => chosen.some(({ id }) => id === style.id);
  const without = (id) => setChosen((now) => now.filter((one) => one.id !== id));
  return {
    styles,
    chosen,
    setChosen,
    hasMore,
    adding,
    add,
    load: () => page([]),
    more: () => page(styles, styles.at(-1).id).catch((error) => setAdding({ isBusy: false, message: error.message })),
    toggle: (style) => (isIn(style) ? without(style.id) : setChosen([...chosen, { id: style.id, style, weight: 1 }])),
    change(style) {
      setStyles((now) => now.map((one) => (one.id === style.id ? style : one)));
      setChosen((now) => now.map((one) => (one.id === style.id ? { ...one, style } : one)));
    },
    remove(id) {
      setStyles((now) => now.filter((one) => one.id !== id));
      without(id);
    },
  };
}

const nameOfFile = (file) => (file.name ?? "").replace(/\.[^.]*$/, "").slice(0, 200);

function useHistory() {
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

/** Pictures that are dropped or pasted anywhere become styles; so do results that are dragged. */
function useIncomingPictures(add) {
  useEffect(() => {
    const mark = (isOver) => document.documentElement.classList.toggle("is-dropping", isOver);
    const onDragOver = (event) => {
      if (!drag.result && !event.dataTransfer.types.includes("Files")) return;
      event.preventDefault();
      mark(true);
    };
    const onDragLeave = (event) => event.relatedTarget === null && mark(false);
    const onDrop = (event) => {
      event.preventDefault();
      mark(false);
      if (drag.result) add({ files: [drag.result.blob], name: drag.result.recipe.prompt.slice(0, 200) });
      else add({ files: picturesOf(event.dataTransfer.files) });
    };
    const onPaste = (event) => {
      const files = picturesOf(event.clipboardData.files);
      if (files.length > 0) add({ files: files.map((file) => new File([file], "", { type: file.type })) });
    };
    const listeners = { dragover: onDragOver, dragleave: onDragLeave, drop: onDrop, paste: onPaste };
    for (const [name, listener] of Object.entries(listeners)) document.addEventListener(name, listener);
    return () => {
      for (const [name, listener] of Object.entries(listeners)) document.removeEventListener(name, listener);
    };
  }, []);
}

/** Shown once the service has asked for an API key; the key stays in this tab. */
function KeyForm({ onKey }) {
  const [reason, setReason] = useState(null);
  const [key, setKey] = useState("");
  useEffect(() => {
    const ask = (event) => setReason(event.detail);
    addEventListener("atelier:key-needed", ask);
    return () => removeEventListener("atelier:key-needed", ask);
  }, []);
  if (reason === null) return null;
  const submit = (event) => {
    event.preventDefault();
    api.apiKey.set(key.trim());
    setReason(null);
    onKey();
  };
  return html`
    <form class="key line" aria-label="Access" onSubmit=${submit}>
      <label for="api-key"><span>API key</span></label>
      <input id="api-key" type="password" autocomplete="off" value=${key} placeholder="atl_…"
        aria-describedby="key-reason" onInput=${(event) => setKey(event.target.value)} />
      <button type="submit">Use it</button>
      <p id="key-reason" class="error" role="alert">${reason}</p>
    </form>
  `;
}

render(html`<${App} />`, document.getElementById("app"));
