// What to draw: the form, the requests it makes, and the pictures as they come in.

import { drawing } from "./api.js";
import { html, Icon, useRef, useState } from "./html.js";
import { imageOf } from "./results.js";
import { nameOf, Thumbnail } from "./styles.js";

const MAX_IMAGES = 10; // in one request
const MAX_SEED = 2 ** 32 - 1;
const SWEEP = [0, 0.25, 0.5, 0.75, 1];

const randomSeed = () => crypto.getRandomValues(new Uint32Array(1))[0];
const times = (count, make) => Array.from({ length: count }, (_, index) => make(index));

// Requests ------------------------------------------------------------------------------------------------

/** The fields of a request that say in which style. */
function stylingOf(chosen, strength) {
  if (chosen.length === 0) return {};
  if (chosen.length === 1) return { style: { id: chosen[0].id, strength } };
  return { styles: chosen.map(({ id, weight }) => ({ id, weight })), strength };
}

function labelOf(chosen) {
  return chosen.length === 0 ? "without a style" : chosen.map(({ style }) => nameOf(style)).join(" + ");
}

/** Each plan is a list of `{body, tiles}`: a request, and for each of its images a label and its styling. */
const plans = {
  draw(base, { chosen, strength, count }) {
    const styling = stylingOf(chosen, strength);
    const tile = { label: labelOf(chosen), styling };
    return [{ body: { ...base, n: count, ...styling }, tiles: times(Number(count) || 1, () => tile) }];
  },

  /** All styles side by side: they share the work on the prompt. */
  all(base, { styles, strength }) {
    const requests = times(Math.ceil(styles.length / MAX_IMAGES), (index) =>
      styles.slice(index * MAX_IMAGES, (index + 1) * MAX_IMAGES),
    );
    return requests.map((some) => ({
      body: { ...base, styles_each: some.map(({ id }) => ({ id, strength })) },
      tiles: some.map((style) => ({ label: nameOf(style), styling: { style: { id: style.id, strength } } })),
    }));
  },

  /** The same seed, more and more of the style. */
  sweep(base, { chosen }) {
    const tiles = SWEEP.map((strength) => ({
      label: `strength ${strength}`,
      styling: stylingOf(chosen, strength),
    }));
    if (chosen.length > 1) return tiles.map((tile) => ({ body: { ...base, ...tile.styling }, tiles: [tile] }));
    return [{ body: { ...base, styles_each: tiles.map(({ styling }) => styling.style) }, tiles }];
  },
};

/** Each image that is asked for, before there is anything to see. */
function blankTiles(requests, form, model) {
  const size = (form.size === "auto" ? (model?.default_size ?? "1x1") : form.size).split("x");
  return requests
    .flatMap((request) => request.tiles)
    .map((tile, index) => ({ ...tile, index, size, step: 0, numSteps: 0 }));
}

/** The tile as an event shows it: with a preview, or with its result. */
function tileAfter(tile, event, base) {
  const changed = { ...tile, step: event.step, numSteps: event.num_steps };
  if (event.type !== "image_generation.completed") {
    return { ...changed, preview: `data:image/${event.output_format};base64,${event.b64_json}` };
  }
  const recipe = { ...base, size: event.size, seed: event.seed, ...tile.styling };
  return { ...changed, result: { blob: imageOf(event), recipe, label: tile.label, created: Date.now() } };
}

/** The share of all steps that is done, 0 to 1. */
const progressOf = (tiles) =>
  tiles.reduce((sum, { step, numSteps }) => sum + (numSteps && step / numSteps), 0) / tiles.length;

/** `[set, draw, cancel]`: what is being drawn or was drawn last, and how to begin and to end it. */
export function useDrawing({ model, onResult, onError }) {
  const [set, setSet] = useState(null);
  const abort = useRef(null);
  const change = (fields) => setSet((current) => ({ ...current, ...fields }));

  const draw = async (plan, form) => {
    const base = { prompt: form.prompt, size: form.size, seed: form.seed };
    if (form.guidance !== "") base.guidance = Number(form.guidance);
    const requests = plans[plan](base, form);
    const tiles = blankTiles(requests, form, model);
    const warnings = new Set();
    const began = performance.now();
    const secondsSince = () => (performance.now() - began) / 1000;
    const onWait = (message) => change({ message: message ?? "Drawing…" });
    abort.current?.abort();
    const { signal } = (abort.current = new AbortController());

    const onEvent = (index, event) => {
      tiles[index] = tileAfter(tiles[index], event, base);
      if (tiles[index].result) onResult(tiles[index].result);
      for (const warning of event.warnings ?? []) warnings.add(warning);
      const progress = progressOf(tiles);
      const left = roughly(secondsSince() * (1 / progress - 1));
      const estimate = `step ${event.step} of ${event.num_steps}, ${left}`;
      change({ tiles: [...tiles], progress, estimate, warnings: [...warnings] });
      if (event.timings) change({ timings: event.timings });
    };

    onError(null);
    setSet({ tiles, isRunning: true, progress: 0, message: "Drawing…", estimate: "", warnings: [], timings: null });
    try {
      let offset = 0;
      for (const request of requests) {
        for await (const event of drawing(request.body, { signal, onWait })) onEvent(offset + event.image_index, event);
        offset += request.tiles.length;
      }
      change({ isRunning: false, message: `Done in ${secondsSince().toFixed(1)} s.` });
    } catch (error) {
      if (signal !== abort.current.signal) return; // another drawing has begun meanwhile
      if (!signal.aborted) onError(error);
      change({ isRunning: false, message: signal.aborted ? "Cancelled." : "Not finished." });
    }
  };
  return [set, draw, () => abort.current.abort()];
}

const roughly = (seconds) => (seconds < 1 ? "less than a second left" : `about ${Math.round(seconds)} s left`);

// The form ------------------------------------------------------------------------------------------------

/** Which control the service speaks of. */
function controlOf(param) {
  if (!param) return "form";
  if (/strength/.test(param)) return "strength";
  if (/^style/.test(param)) return "styles";
  return ["prompt", "size", "seed", "n", "guidance"].includes(param) ? param : "form";
}

export function Composer({ model, styles, chosen, setChosen, isRunning, error, onDraw, onError }) {
  const [form, setForm] = useState({ prompt: "", size: "auto", seed: "", count: "1", strength: 1, guidance: "" });
  const [isLocked, lock] = useState(false);
  const change = (fields) => setForm((current) => ({ ...current, ...fields }));
  const failed = error && controlOf(error.param);
  const messageOf = (control) => (failed === control ? error.message : null);

  const draw = (plan) => {
    if (isRunning) return;
    if (plan === "sweep" && chosen.length === 0) {
      onError({ param: "style", message: "A strength sweep needs a style: choose one." });
      return;
    }
    const given = Number(form.seed);
    const seed = isLocked && form.seed !== "" ? given : randomSeed();
    change({ seed: String(seed) });
    const count = form.count === "" ? 1 : Number(form.count);
    onDraw(plan, { ...form, seed, count, chosen, styles });
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
      <${Field} label="Prompt" name="prompt" error=${messageOf("prompt")} hint="Ctrl or ⌘ with Enter draws.">
        ${(attributes) => html`
          <textarea ...${attributes} rows="2" placeholder="a red house" value=${form.prompt}
            onInput=${(event) => change({ prompt: event.target.value })}></textarea>
        `}
      <//>
      <${Chosen} chosen=${chosen} setChosen=${setChosen} error=${messageOf("styles")} />
      <div class="controls">
        <${Field} label="Strength" name="strength" error=${messageOf("strength")} value=${form.strength.toFixed(2)}>
          ${(attributes) => html`
            <input ...${attributes} type="range" min="0" max="1.5" step="0.05" value=${form.strength}
              onInput=${(event) => change({ strength: Number(event.target.value) })} />
          `}
        <//>
        <${Field} label="Size" name="size" error=${messageOf("size")}>
          ${(attributes) => html`
            <select ...${attributes} value=${form.size} onChange=${(event) => change({ size: event.target.value })}>
              <option value="auto">${model ? `auto (${model.default_size})` : "auto"}</option>
              ${model?.sizes.map((size) => html`<option key=${size} value=${size}>${size}</option>`)}
            </select>
          `}
        <//>
        <${Field} label="Count" name="count" error=${messageOf("n")}>
          ${(attributes) => html`
            <input ...${attributes} type="number" min="1" max=${MAX_IMAGES} value=${form.count}
              onInput=${(event) => change({ count: event.target.value })} />
          `}
        <//>
        <${Field} label="Guidance" name="guidance" error=${messageOf("guidance")}>
          ${(attributes) => html`
            <input ...${attributes} type="number" min="0" max="30" step="0.5" value=${form.guidance}
              placeholder=${model?.guidance} onInput=${(event) => change({ guidance: event.target.value })} />
          `}
        <//>
        <${Field} label="Seed" name="seed" error=${messageOf("seed")}>
          ${(attributes) => html`
            <span class="with-button">
              <input ...${attributes} type="number" min="0" max=${MAX_SEED} value=${form.seed} placeholder="random"
                onInput=${(event) => (change({ seed: event.target.value }), lock(event.target.value !== ""))} />
              <button type="button" aria-pressed=${isLocked} aria-label="Lock the seed" title="Lock the seed"
                onClick=${() => lock(!isLocked)}>
                <${Icon} name=${isLocked ? "locked" : "unlocked"} />
              </button>
            </span>
          `}
        <//>
      </div>
      <div class="buttons">
        <button type="submit" class="primary" aria-disabled=${isRunning}>Draw</button>
        ${styles.length > 0 &&
        html`
          <button type="button" aria-disabled=${isRunning} onClick=${() => draw("all")}>In all my styles</button>
          <button type="button" aria-disabled=${isRunning} onClick=${() => draw("sweep")}>Strength sweep</button>
        `}
      </div>
      <p class="error" role="alert">${messageOf("form")}</p>
    </form>
  `;
}

/** A label, its control, and beside it what the service said of it. */
function Field({ label, name, value, hint, error, children }) {
  const describedBy = [error && `${name}-error`, hint && `${name}-hint`].filter(Boolean).join(" ") || undefined;
  const attributes = { id: name, "aria-describedby": describedBy, "aria-invalid": error ? "true" : undefined };
  return html`
    <div class=${`field field-${name}`}>
      <label for=${name}>${label}</label>
      ${value !== undefined && html`<output for=${name} aria-hidden="true">${value}</output>`}
      ${hint && html`<span class="quiet hint" id=${`${name}-hint`}>${hint}</span>`}
      ${children(attributes)}
      ${error && html`<p class="error" role="alert" id=${`${name}-error`}>${error}</p>`}
    </div>
  `;
}

function Chosen({ chosen, setChosen, error }) {
  const weigh = (id, weight) => setChosen(chosen.map((one) => (one.id === id ? { ...one, weight } : one)));
  return html`
    <div class="chosen">
      ${chosen.length === 0 && html`<p class="quiet">No style is chosen: the plain model draws.</p>`}
      ${chosen.map(
        ({ id, style, weight }) => html`
          <div class="chip" key=${id} role="group" aria-label=${`Chosen: ${nameOf(style)}`}>
            <${Thumbnail} style=${style} />
            <span class="name">${nameOf(style)}</span>
            ${chosen.length > 1 &&
            html`
              <input type="range" min="-1" max="2" step="0.1" value=${weight} aria-label=${`Weight of ${nameOf(style)}`}
                onInput=${(event) => weigh(id, Number(event.target.value))} />
              <output aria-hidden="true">${weight.toFixed(1)}</output>
            `}
            <button type="button" aria-label=${`Do not use ${nameOf(style)}`}
              onClick=${() => setChosen(chosen.filter((one) => one.id !== id))}>
              <${Icon} name="close" />
            </button>
          </div>
        `,
      )}
      ${error && html`<p class="error" role="alert">${error}</p>`}
    </div>
  `;
}
