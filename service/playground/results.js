// The region "Result": progress, the pictures as they come, and what can be done with one.

import { drawing, bytesOf } from "./api.js";
import { CopyButton, Dialog, html, useEffect, useObjectUrl, useRef, useState } from "./html.js";
import { curlOf, fileName, pythonOf, save, withParameters } from "./recipes.js";

export const drag = { result: null }; // the result that is being dragged

export const imageOf = (event) =>
  new Blob([bytesOf(event.b64_json)], { type: `image/${event.output_format}` });

/** `set` is what was asked for last, see draw.js; null at first. */
export function Results({ set, onCancel, onUseAsStyle, onOpen }) {
  return html`
    <section class="result" aria-label="Result" aria-busy=${Boolean(set?.isRunning)}>
      <${Progress} set=${set} onCancel=${onCancel} />
      ${set === null && html`<div class="stage empty"><p>Your picture appears here.</p></div>`}
      ${set?.tiles.length === 1 && html`<${Single} tile=${set.tiles[0]} onUseAsStyle=${onUseAsStyle} />`}
      ${set?.tiles.length > 1 &&
      html`
        <ul class="tiles" aria-label="Pictures">
          ${set.tiles.map((tile) => html`<${Tile} key=${tile.index} tile=${tile} onOpen=${onOpen} />`)}
        </ul>
      `}
      ${set?.warnings.map((warning) => html`<p class="warning" key=${warning}>${warning}</p>`)}
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

function Single({ tile, onUseAsStyle }) {
  if (tile.result) return html`<${Picture} result=${tile.result} onUseAsStyle=${onUseAsStyle} />`;
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

const Draggable = ({ result, url, width, height }) => html`
  <img src=${url} width=${width} height=${height} alt=${`${result.recipe.prompt}, ${result.label}`}
    data-state="finished" draggable="true" onDragStart=${() => (drag.result = result)}
    onDragEnd=${() => (drag.result = null)} />
`;

/** One result at full width, with everything that can be done with it. */
export function Picture({ result, onUseAsStyle }) {
  const url = useObjectUrl(result.blob);
  const { recipe } = result;
  const [width, height] = recipe.size.split("x");
  const isStyled = Boolean(recipe.style ?? recipe.styles);
  const [plain, setPlain] = useState(null);
  const [message, setMessage] = useState("");
  useEffect(() => (setPlain(null), setMessage("")), [result]);
  const compare = async () => {
    try {
      setMessage("Making the plain picture…");
      setPlain(await plainOf(recipe, setMessage));
      setMessage("");
    } catch (error) {
      setMessage(error.message);
    }
  };
  const download = async () => save(await withParameters(result.blob, recipe), fileName(recipe));
  return html`
    <div class="stage">
      <${Draggable} result=${result} url=${url} width=${width} height=${height} />
      ${plain && html`<${Wipe} plain=${plain} width=${width} height=${height} />`}
    </div>
    <p class="caption"><strong>${recipe.prompt}</strong> <span class="quiet">${result.label}, seed ${recipe.seed}</span></p>
    <div class="actions">
      <button type="button" onClick=${download}>Download</button>
      ${isStyled && !plain && html`<button type="button" onClick=${compare}>Compare with plain</button>`}
      <button type="button" onClick=${() => onUseAsStyle(result)}>Use as a style</button>
      <${CopyButton} text=${() => curlOf(recipe)}>Copy as curl<//>
      <${CopyButton} text=${() => pythonOf(recipe)}>Copy as Python<//>
    </div>
    <p class="quiet" role="status">${message}</p>
  `;
}

/** The same prompt and seed at strength 0: the API key may have a style of its own where a request names none. */
async function plainOf(recipe, onWait) {
  const plain = recipe.style ? { ...recipe, style: { ...recipe.style, strength: 0 } } : { ...recipe, strength: 0 };
  const { signal } = new AbortController();
  for await (const event of drawing(plain, { signal, onWait: (text) => text && onWait(text) })) {
    if (event.type === "image_generation.completed") return imageOf(event);
  }
  throw new Error("The service sent no picture.");
}

/** The plain picture over the styled one, up to where the slider is. */
function Wipe({ plain, width, height }) {
  const url = useObjectUrl(plain);
  const image = useRef();
  const [share, setShare] = useState(50);
  return html`
    <img class="plain-side" ref=${image} src=${url} width=${width} height=${height} alt="The same without a style"
      style=${{ clipPath: `inset(0 ${100 - share}% 0 0)` }} draggable="false" />
    <input class="wipe" type="range" min="0" max="100" value=${share} aria-label="Between plain and styled"
      aria-valuetext=${`${share} percent plain`} onInput=${(event) => setShare(Number(event.target.value))} />
  `;
}

export function PictureDialog({ result, onClose, onUseAsStyle, onForget }) {
  return html`
    <${Dialog} label=${`Picture: ${result.recipe.prompt}`} onClose=${onClose}>
      <${Picture} result=${result} onUseAsStyle=${onUseAsStyle} />
      ${result.id !== undefined &&
      html`<button type="button" class="plain" onClick=${() => onForget(result)}>Remove from history</button>`}
    <//>
  `;
}

const STAGES = {
  queue: "waiting",
  text: "reading the prompt",
  style: "looking up the style",
  transformer: "the model's steps",
  decode: "decoding",
  encode: "writing the file",
};

/** The stages of Server-Timing, in milliseconds. */
function Timings({ timings }) {
  const { total, ...stages } = timings;
  return html`
    <details class="timings">
      <summary>Where did the time go?</summary>
      <table>
        <thead><tr><th scope="col">stage</th><th scope="col">milliseconds</th><th scope="col">share</th></tr></thead>
        <tbody>
          ${Object.entries(stages).map(
            ([stage, milliseconds]) => html`
              <tr key=${stage}>
                <th scope="row">${STAGES[stage] ?? stage}</th>
                <td>${milliseconds.toFixed(1)}</td>
                <td><meter min="0" max=${total} value=${milliseconds} aria-label=${STAGES[stage] ?? stage}></meter></td>
              </tr>
            `,
          )}
        </tbody>
        <tfoot><tr><th scope="row">in all</th><td>${total.toFixed(1)}</td><td></td></tr></tfoot>
      </table>
    </details>
  `;
}
