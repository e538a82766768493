// The region "Result": progress, and the pictures as they come.

import { html, useEffect, useObjectUrl, useRef } from "./html.js";
import { Draggable, Picture } from "./picture_view.js";
import { Timings } from "./timings.js";

const LOW = 0.7; // of the window: a picture that begins below would be drawn unseen

/** `set` is what was asked for last, see drawing.js; null at first. `actions` go with each picture. */
export function Results({ set, onCancel, actions, onOpen }) {
  const section = useRef();
  useEffect(() => {
    const isBelow = section.current.getBoundingClientRect().top > LOW * innerHeight;
    if (set && isBelow) section.current.scrollIntoView({ block: "nearest" });
  }, [set?.began]);
  return html`
    <section class="result" ref=${section} aria-label="Result" aria-busy=${Boolean(set?.isRunning)}>
      <${Progress} set=${set} onCancel=${onCancel} />
      ${set === null && html`<div class="stage empty"><p>Your picture appears here.</p></div>`}
      ${set?.tiles.length === 1 && html`<${Single} tile=${set.tiles[0]} actions=${actions} />`}
      ${set?.tiles.length > 1 &&
      html`
        <ul class="tiles" aria-label="Pictures">
          ${set.tiles.map((tile) => html`<${Tile} key=${tile.index} tile=${tile} onOpen=${onOpen} />`)}
        </ul>
      `}
      ${set?.timings && html`<${Timings} timings=${set.timings} />`}
    </section>
  `;
}

function Progress({ set, onCancel }) {
  if (set === null) return html`<div class="progress"></div>`;
  return html`
    <div class="progress">
      <progress aria-label="Progress" max="1" value=${set.progress}></progress>
      <p>
        <span role="status">${set.message}</span> <span class="quiet">${set.isRunning && set.estimate}</span>
      </p>
      ${set.isRunning && html`<button type="button" onClick=${onCancel}>Cancel</button>`}
    </div>
  `;
}

function Single({ tile, actions }) {
  if (tile.result) return html`<${Picture} result=${tile.result} actions=${actions} />`;
  return html`
    <div class="stage"><${Preview} tile=${tile} /></div>
    <p class="caption quiet">${tile.label}</p>
    <div class="actions placeholder"></div>
  `;
}

function Preview({ tile }) {
  const [width, height] = tile.size;
  if (!tile.preview) return html`<span class="waiting"></span>`;
  return html`
    <img src=${tile.preview} width=${width} height=${height} data-state="preview" draggable="false"
      alt=${`A preview, step ${tile.step} of ${tile.numSteps}`} />
  `;
}

function Tile({ tile, onOpen }) {
  const url = useObjectUrl(tile.result?.blob);
  const [width, height] = tile.size;
  return html`
    <li>
      ${tile.result
        ? html`
            <button type="button" aria-label=${`Open: ${tile.label}`} onClick=${() => onOpen(tile.result)}>
              <${Draggable} result=${tile.result} url=${url} width=${width} height=${height} />
            </button>
          `
        : html`<div class="pending"><${Preview} tile=${tile} /></div>`}
      <span class="caption">${tile.label}</span>
    </li>
  `;
}
