// One result at full width, with everything that can be done with it.

import { drawing, isCompleted } from "./api.js";
import { imageOf } from "./drawing.js";
import { CopyButton, Dialog, html, useEffect, useObjectUrl, useState } from "./html.js";
import { drag } from "./incoming.js";
import { save, withParameters } from "./png.js";
import { curlOf, fileName, parametersOf, pythonOf, titleOf } from "./recipes.js";

export const Draggable = ({ result, url, width, height }) => html`
  <img src=${url} width=${width} height=${height} alt=${`${titleOf(result)}, ${result.label}`}
    data-state="finished" draggable="true" onDragStart=${() => (drag.result = result)}
    onDragEnd=${() => (drag.result = null)} />
`;

/** `actions` has what the page does with a result: `useAsStyle`, `edit` and `redraw`. */
export function Picture({ result, actions }) {
  const url = useObjectUrl(result.blob);
  const { recipe, files } = result;
  const [width, height] = recipe.size.split("x");
  const isStyled = Boolean(recipe.style ?? recipe.styles ?? recipe.regions);
  const [before, setBefore] = useState(null);
  const [message, setMessage] = useState("");
  useEffect(() => (setBefore(null), setMessage("")), [result]);
  const compare = async () => {
    if (files) return setBefore(files.image.blob);
    try {
      setMessage("Making the plain picture…");
      setBefore(await plainOf(recipe, setMessage));
      setMessage("");
    } catch (error) {
      setMessage(error.message);
    }
  };
  const download = async () => save(await withParameters(result.blob, parametersOf(result)), fileName(result));
  return html`
    <div class="stage">
      <${Draggable} result=${result} url=${url} width=${width} height=${height} />
      ${before && html`<${Wipe} before=${before} width=${width} height=${height} isEdit=${Boolean(files)} />`}
    </div>
    <p class="caption">
      <strong>${titleOf(result)}</strong> <span class="quiet">${result.label}, seed ${recipe.seed}</span>
    </p>
    <div class="actions">
      <button type="button" onClick=${download}>Download</button>
      ${(isStyled || files) &&
      !before &&
      html`<button type="button" onClick=${compare}>${files ? "Compare with before" : "Compare with plain"}</button>`}
      <button type="button" onClick=${() => actions.useAsStyle(result)}>Use as a style</button>
      <button type="button" onClick=${() => actions.edit(result)}>Edit</button>
      <button type="button" onClick=${() => actions.redraw(result)}>Draw again</button>
      <span class="copies">
        <${CopyButton} text=${() => curlOf(result)}>Copy as curl<//>
        <${CopyButton} text=${() => pythonOf(result)}>Copy as Python<//>
      </span>
    </div>
    ${files && html`<${Files} files=${files} />`}
    <p class="quiet" role="status">${message}</p>
  `;
}

/** What the copied commands of an edit read from the folder that they run in. */
const Files = ({ files }) => html`
  <p class="files quiet">
    The copied commands read
    ${Object.entries(files).map(
      ([field, { name, blob }]) => html`
        <button type="button" class="plain" key=${field} aria-label=${`Save ${name}`} onClick=${() => save(blob, name)}>
          ${name}
        </button>
      `,
    )}
    from the folder they run in.
  </p>
`;

/** The same prompt and seed at strength 0: the API key may have a style of its own where a request names none. */
async function plainOf({ style, regions, ...recipe }, onWait) {
  const plain = { ...recipe, strength: 0 };
  if (style) Object.assign(plain, { style: { ...style, strength: 0 } });
  if (regions) Object.assign(plain, { regions: regions.map((region) => ({ ...region, strength: 0 })) });
  if (style || regions) delete plain.strength;
  const { signal } = new AbortController();
  for await (const event of drawing(plain, undefined, { signal, onWait: (text) => text && onWait(text) })) {
    if (isCompleted(event)) return imageOf(event);
  }
  throw new Error("The service sent no picture.");
}

/** The picture before over the one after, up to where the slider is. */
function Wipe({ before, width, height, isEdit }) {
  const url = useObjectUrl(before);
  const [share, setShare] = useState(50);
  const [alt, name, value] = isEdit
    ? ["The picture before", "Between before and after", "before"]
    : ["The same without a style", "Between plain and styled", "plain"];
  return html`
    <img class="before" src=${url} width=${width} height=${height} alt=${alt}
      style=${{ clipPath: `inset(0 ${100 - share}% 0 0)`, aspectRatio: `${width} / ${height}` }} draggable="false" />
    <input class="wipe" type="range" min="0" max="100" value=${share} aria-label=${name}
      aria-valuetext=${`${share} percent ${value}`} onInput=${(event) => setShare(Number(event.target.value))} />
  `;
}

export function PictureDialog({ result, onClose, actions, onForget }) {
  return html`
    <${Dialog} label=${`Picture: ${titleOf(result)}`} onClose=${onClose}>
      <${Picture} result=${result} actions=${actions} />
      ${result.id !== undefined &&
      html`<button type="button" class="plain" onClick=${() => onForget(result)}>Remove from history</button>`}
    <//>
  `;
}
