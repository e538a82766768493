// The parts that the form is made of.

import { html, Icon } from "./html.js";
import { nameOf, Thumbnail } from "./styles.js";

/** A label, its control, and beside it what the service said of it. */
export function Field({ label, name, value, hint, error, children }) {
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

/** The chosen styles, with a weight each where there are several. */
export function Chosen({ chosen, setChosen, hasRegions, plain, error }) {
  const weigh = (id, weight) => setChosen(chosen.map((one) => (one.id === id ? { ...one, weight } : one)));
  return html`
    <div class="chosen">
      ${hasRegions
        ? html`<p class="quiet">Each region has a style of its own.</p>`
        : chosen.length === 0 && html`<p class="quiet">${plain}</p>`}
      ${!hasRegions &&
      chosen.map(
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
