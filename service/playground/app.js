// The page as a whole: loads the model, the styles and the history, and passes them to its parts.

import { KeyForm } from "./access.js";
import * as api from "./api.js";
import { Composer, useForm } from "./composer.js";
import { useDrawing } from "./drawing.js";
import { History, useHistory } from "./history.js";
import { html, Mark, render, useEffect, useState } from "./html.js";
import { useIncomingPictures } from "./incoming.js";
import { PictureDialog } from "./picture_view.js";
import { titleOf } from "./recipes.js";
import { Results } from "./results.js";
import { Styles } from "./styles.js";
import { useBoard } from "./use_board.js";
import { useStyles } from "./use_styles.js";

function App() {
  const [model, setModel] = useState(null);
  const [notice, setNotice] = useState("");
  const [error, setError] = useState(null);
  const [opened, open] = useState(null);
  const history = useHistory();
  const styles = useStyles();
  const board = useBoard();
  const form = useForm();
  const [set, draw, cancel] = useDrawing({ onResult: history.keep, onError: setError });

  const load = () =>
    loaded(setNotice, async () => {
      const [models] = await Promise.all([api.getJson("v1/models"), styles.load()]);
      setModel(models.data[0]);
    });
  useEffect(() => void load(), []);
  useIncomingPictures({ onStyles: styles.add, onPicture: board.setPicture });

  const actions = {
    async useAsStyle(result) {
      open(null);
      await styles.add({ files: [result.blob], name: titleOf(result).slice(0, 200) });
    },
    async edit(result) {
      open(null);
      await board.setPicture(result);
      document.getElementById("prompt").focus();
    },
    /** The same request once more; the form shows what it was. */
    async redraw(result) {
      open(null);
      const { recipe, files, label } = result;
      form.restore(recipe);
      styles.choose(recipe.style ? [recipe.style] : (recipe.styles ?? []));
      await board.restore(result);
      const requests = [{ body: recipe, tiles: [{ label, styling: {} }] }];
      await draw({ requests, base: recipe, files, size: recipe.size.split("x").map(Number) });
    },
  };
  const forget = async (result) => {
    open(null);
    await history.forget(result);
  };
  return html`
    <header class="top">
      <h1><${Mark} /> Atelier</h1>
      <p class="quiet">${model && `${model.id}, ${model.default_size.replace("x", " × ")}`}</p>
      <nav aria-label="Service"><a href="docs">API reference</a></nav>
    </header>
    <${KeyForm} onKey=${load} />
    <p class="notice" role="status">${notice}</p>
    <main>
      <${Styles} ...${styles} onAdd=${styles.add} onMore=${styles.more} onToggle=${styles.toggle}
        onChange=${styles.change} onDelete=${styles.remove} />
      <div class="work">
        <${Composer} model=${model} ...${form} board=${board} styles=${styles.styles} chosen=${styles.chosen}
          setChosen=${styles.setChosen} set=${set} error=${error} onDraw=${draw}
          onError=${setError} />
        <${Results} set=${set} onCancel=${cancel} actions=${actions} onOpen=${open} />
        <${History} results=${history.results} onOpen=${open} onForgetAll=${history.clear} />
      </div>
    </main>
    ${opened &&
    html`<${PictureDialog} result=${opened} onClose=${() => open(null)} actions=${actions} onForget=${forget} />`}
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

render(html`<${App} />`, document.getElementById("app"));
