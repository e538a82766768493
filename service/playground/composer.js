// The form: prompt, board, chosen styles, and the controls of a request.

import { sentence } from "./api.js";
import { Board } from "./board.js";
import { Chosen, Field } from "./fields.js";
import { html, Icon, useMemo, useState } from "./html.js";
import { imageSize } from "./pictures.js";
import { baseOf, MAX_IMAGES, plans, problemOf } from "./plans.js";
import { exampleOf, Vocabulary, withWord } from "./vocabulary.js";

const MAX_SEED = 2 ** 32 - 1;
const NEW = { prompt: "", size: "auto", seed: "", isLocked: false, count: "1", strength: 1, guidance: "" };

const randomSeed = () => crypto.getRandomValues(new Uint32Array(1))[0];

/** What is in the form, how to change it, and how to set it to what drew a result. */
export function useForm() {
  const [form, setForm] = useState(NEW);
  const change = (fields) => setForm((current) => ({ ...current, ...fields }));
  const restore = ({ prompt = "", size, seed, guidance = "", style, strength = style?.strength ?? 1 }) =>
    setForm({ ...NEW, prompt, size, seed: String(seed), isLocked: true, guidance: String(guidance), strength });
  return { form, change, restore };
}

/** Which control the service speaks of. */
function controlOf(param) {
  if (!param) return "form";
  const region = /^regions\.(\d+)(?:\.(box|strength))?/.exec(param);
  if (region) return `region-${region[1]}-${region[2] ?? "style"}`;
  if (/^image/.test(param)) return "picture";
  if (/strength/.test(param)) return "strength";
  if (/^style/.test(param)) return "styles";
  const controls = ["prompt", "size", "seed", "guidance", "mask", "structure", "regions"];
  if (param === "n") return "count";
  return controls.includes(param) ? param : "form";
}

/** `set` is what was drawn last, and `onDraw({requests, base, files, size})` draws: see drawing.js. */
export function Composer({ model, form, change, board, styles, chosen, setChosen, set, error, onDraw, onError }) {
  const [isListing, list] = useState(false);
  const draws = model?.draws;
  const example = useMemo(() => (model ? exampleOf(draws) : ""), [model]);
  const isRunning = Boolean(set?.isRunning);
  const warnings = set?.prompt === form.prompt.trim() ? set.warnings : [];
  const failed = error && controlOf(error.param);
  const errorOf = (control) => (failed === control ? error.message : null);
  const size = imageSize(form.size, board.picture, model);
  const { regions } = board;

  const draw = async (plan) => {
    if (isRunning) return;
    const seed = form.isLocked && form.seed !== "" ? Number(form.seed) : randomSeed();
    const count = form.count === "" ? 1 : Number(form.count);
    const wanted = { ...form, ...board, seed, count, chosen, styles };
    const problem = problemOf(plan, wanted);
    if (problem) return onError(problem);
    change({ seed: String(seed) });
    const base = baseOf(wanted);
    onDraw({ requests: plans[plan](base, wanted), base, files: await board.files(seed), size });
  };
  const submit = (event) => {
    event.preventDefault();
    draw("draw");
  };
  const onKeyDown = (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) submit(event);
  };
  return html`
    <form class="composer" noValidate onSubmit=${submit} onKeyDown=${onKeyDown}>
      <div class="subject" data-drop="picture">
        <${Field} label="Prompt" name="prompt" error=${errorOf("prompt")} hint="Ctrl or ⌘ with Enter draws.">
          ${(attributes) => html`
            ${draws &&
            html`
              <button type="button" class="plain lists" aria-expanded=${isListing} aria-controls="vocabulary"
                onClick=${() => list(!isListing)}>What ${model.id} draws</button>
            `}
            <textarea ...${attributes} rows="2" value=${form.prompt}
              placeholder=${board.picture ? "nothing: the picture as it is, in the style" : example}
              onInput=${(event) => change({ prompt: event.target.value })}></textarea>
          `}
        <//>
        <div class="warnings" role="status">
          ${warnings.map((warning) => html`<p class="warning" key=${warning}>${sentence(warning)}</p>`)}
        </div>
        ${draws &&
        isListing &&
        html`
          <${Vocabulary} name=${model.id} draws=${draws} prompt=${form.prompt}
            onPick=${(kind, word) => change({ prompt: withWord(form.prompt, kind, word, draws) })} />
        `}
        <${Board} board=${board} size=${size} styles=${styles} chosen=${chosen} errorOf=${errorOf} />
      </div>
      <${Chosen} chosen=${chosen} setChosen=${setChosen} hasRegions=${regions.length > 0} error=${errorOf("styles")}
        plain=${board.picture ? "No style is chosen: the prompt is drawn over the picture." : "No style is chosen: the plain model draws."} />
      <${Controls} model=${model} size=${imageSize("auto", board.picture, model)} form=${form} change=${change} errorOf=${errorOf} hasRegions=${regions.length > 0} />
      <div class="buttons">
        <button type="submit" class="primary" aria-disabled=${isRunning}>Draw</button>
        <button type="button" aria-disabled=${isRunning} onClick=${() => draw("all")}>In all my styles</button>
        <button type="button" aria-disabled=${isRunning} onClick=${() => draw("sweep")}>Strength sweep</button>
      </div>
      <p class="error" role="alert">${errorOf("form")}</p>
    </form>
  `;
}

function Controls({ model, size, form, change, errorOf, hasRegions }) {
  const input = (name) => (event) => change({ [name]: event.target.value });
  const strength = hasRegions ? "of each region" : form.strength.toFixed(2);
  return html`
    <div class="controls">
      <${Field} label="Strength" name="strength" error=${errorOf("strength")} value=${strength}>
        ${(attributes) => html`
          <input ...${attributes} type="range" min="0" max="1.5" step="0.05" value=${form.strength} disabled=${hasRegions}
            onInput=${(event) => change({ strength: Number(event.target.value) })} />
        `}
      <//>
      <${Field} label="Size" name="size" error=${errorOf("size")}>
        ${(attributes) => html`
          <select ...${attributes} value=${form.size} onChange=${input("size")}>
            <option value="auto">${model ? `auto (${size.join("x")})` : "auto"}</option>
            ${model?.sizes.map((name) => html`<option key=${name} value=${name}>${name}</option>`)}
          </select>
        `}
      <//>
      <${Field} label="Count" name="count" error=${errorOf("count")}>
        ${(attributes) => html`
          <input ...${attributes} type="number" min="1" max=${MAX_IMAGES} value=${form.count} onInput=${input("count")} />
        `}
      <//>
      <${Field} label="Guidance" name="guidance" error=${errorOf("guidance")}>
        ${(attributes) => html`
          <input ...${attributes} type="number" min="0" max="30" step="0.5" value=${form.guidance}
            placeholder=${model?.guidance} onInput=${input("guidance")} />
        `}
      <//>
      <${Field} label="Seed" name="seed" error=${errorOf("seed")}>
        ${(attributes) => html`
          <span class="with-button">
            <input ...${attributes} type="number" min="0" max=${MAX_SEED} value=${form.seed} placeholder="random"
              onInput=${({ target }) => change({ seed: target.value, isLocked: target.value !== "" })} />
            <button type="button" aria-pressed=${form.isLocked} aria-label="Lock the seed" title="Lock the seed"
              onClick=${() => change({ isLocked: !form.isLocked })}>
              <${Icon} name=${form.isLocked ? "locked" : "unlocked"} />
            </button>
          </span>
        `}
      <//>
    </div>
  `;
}
