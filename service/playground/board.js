// The board: the picture that is edited, the tools to mask it and to give its regions styles, and how much of it stays.

import { Field } from "./fields.js";
import { html, Icon, useObjectUrl, useState } from "./html.js";
import { clearPaint, hasPaint, invertPaint, MaskCanvas } from "./mask.js";
import { cutStyle } from "./pictures.js";
import { Boxes, MAX_REGIONS, RegionList } from "./regions.js";
import { picturesOf } from "./styles.js";

const TOOLS = { mask: "Paint a mask", erase: "Erase", region: "Draw a region" };
const HINTS = {
  mask: ["Paint what may change.", "With keys: arrows move the brush, Space paints."],
  erase: ["What is erased stays.", "With keys: arrows move the brush, Space erases."],
  region: ["Drag a box, or tap for one.", "With keys: arrows move a box, with Shift they resize it."],
};

/** `size` is [width, height] of the image, `errorOf(control)` what the service said of a control. */
export function Board({ board, size, styles, chosen, errorOf }) {
  const { picture, regions, tool, message } = board;
  if (!picture && regions.length === 0 && tool === null) return html`<${Start} board=${board} styles=${styles} />`;

  const addRegion = (box) => {
    if (regions.length === MAX_REGIONS) return board.change({ message: `An image has at most ${MAX_REGIONS} regions.` });
    const style = chosen[regions.length]?.id ?? styles[regions.length % styles.length].id;
    const key = crypto.getRandomValues(new Uint32Array(1))[0];
    return board.change({ regions: [...regions, { key, style, box, strength: 1 }], message: "" });
  };
  const changeRegion = (index, fields) =>
    board.change({ regions: regions.map((one, at) => (at === index ? { ...one, ...fields } : one)) });
  const removeRegion = (index) => board.change({ regions: regions.filter((_, at) => at !== index), message: "" });
  const shared = { regions, styles, onChange: changeRegion, onRemove: removeRegion };
  const problem = errorOf("picture") ?? errorOf("regions");
  return html`
    <div class=${tool || regions.length > 0 ? "board is-wide" : "board"}>
      <${Frame} board=${board} size=${size}>
        <${Boxes} ...${shared} tool=${tool} onAdd=${addRegion} />
      <//>
      <div class="beside">
        <${Heading} board=${board} />
        ${problem && html`<p class="error" role="alert">${problem}</p>`}
        ${picture && html`<${Structure} board=${board} hasStyle=${chosen.length > 0} error=${errorOf("structure")} />`}
        <${Tools} board=${board} styles=${styles} onAdd=${() => addRegion([0, 0, 0.5, 1])} error=${errorOf("mask")} />
        <${RegionList} ...${shared} errorOf=${errorOf} />
        <p class="error" role="status">${message}</p>
      </div>
    </div>
  `;
}

function usePick(board) {
  return (event) => {
    const [blob] = picturesOf(event.target.files);
    event.target.value = "";
    board.setPicture({ blob });
  };
}

/** Before there is anything on the board. */
function Start({ board, styles }) {
  const pick = usePick(board);
  return html`
    <div class="start">
      <label class="pick">
        <input type="file" accept="image/*" aria-label="Picture to edit" aria-describedby="board-message"
          onChange=${pick} />
        <${Icon} name="picture" /> <span>Edit a picture</span> <span class="quiet keys">drop it here</span>
      </label>
      <button type="button" class="pick" onClick=${() => chooseTool(board, styles, "region")}>
        <${Icon} name="region" /> Styles by region
      </button>
      <p class="error" role="status" id="board-message">${board.message}</p>
    </div>
  `;
}

function chooseTool(board, styles, tool) {
  if (tool === "region" && styles.length === 0) {
    board.change({ message: "Add a style first: each region is drawn in one." });
  } else board.change({ tool: tool === board.tool ? null : tool, message: "" });
}

/** The picture as it is cut, under its mask and its boxes; blank without a picture. */
function Frame({ board, size, children }) {
  const { picture, paint, tool, brush = 0.15 } = board;
  const url = useObjectUrl(picture?.blob);
  const [width, height] = size;
  return html`
    <div class="frame" style=${{ aspectRatio: `${width} / ${height}` }}>
      ${picture &&
      html`
        <div class="cut" style=${cutStyle(picture, size)}>
          <img src=${url} alt="The picture to edit" draggable="false" />
          <${MaskCanvas} paint=${paint} tool=${tool} brush=${brush}
            onPainted=${() => board.change({ isPainted: hasPaint(paint) })} />
        </div>
      `}
      ${children}
    </div>
  `;
}

function Heading({ board }) {
  const { picture } = board;
  const pick = usePick(board);
  const close = () => (picture ? board.removePicture() : board.change({ regions: [], tool: null, message: "" }));
  return html`
    <div class="heading">
      <strong>${picture ? picture.name : "Styles by region"}</strong>
      ${!picture &&
      html`
        <label class="pick small">
          <input type="file" accept="image/*" aria-label="Picture to edit" onChange=${pick} /> on a picture
        </label>
      `}
      <button type="button" class="remove" aria-label=${picture ? "Remove the picture" : "Remove all regions"}
        onClick=${close}>
        <${Icon} name="close" />
      </button>
    </div>
  `;
}

function Structure({ board, hasStyle, error }) {
  const structure = board.structureUsed(hasStyle || board.regions.length > 0);
  return html`
    <${Field} label="Structure" name="structure" value=${structure.toFixed(2)} error=${error}>
      ${(attributes) => html`
        <input ...${attributes} type="range" min="0" max="1" step="0.05" value=${structure}
          title="How much of the picture stays" onInput=${(event) => board.change({ structure: Number(event.target.value) })} />
      `}
    <//>
  `;
}

function Tools({ board, styles, onAdd, error }) {
  const { picture, paint, isPainted, tool, brush = 0.15 } = board;
  const isShown = { mask: picture, erase: picture && (isPainted || tool === "erase"), region: true };
  const names = Object.keys(TOOLS).filter((name) => isShown[name]);
  const repaint = (work) => {
    work(paint);
    board.change({ isPainted: hasPaint(paint) });
  };
  return html`
    <div class="tools" role="group" aria-label="Tools">
      ${names.map(
        (name) => html`
          <button type="button" key=${name} aria-pressed=${tool === name}
            onClick=${() => chooseTool(board, styles, name)}>${TOOLS[name]}</button>
        `,
      )}
    </div>
    ${tool && html`<p class="quiet">${HINTS[tool][0]} <span class="keys">${HINTS[tool][1]}</span></p>`}
    ${(tool === "mask" || tool === "erase") &&
    html`
      <div class="brush-size">
        <label for="brush">Brush</label>
        <input id="brush" type="range" min="0.02" max="0.5" step="0.01" value=${brush}
          aria-valuetext=${`${Math.round(100 * brush)} percent of the picture`}
          onInput=${(event) => board.change({ brush: Number(event.target.value) })} />
        <button type="button" class="plain" onClick=${() => repaint(clearPaint)}>Clear</button>
        <button type="button" class="plain" onClick=${() => repaint(invertPaint)}>Invert</button>
      </div>
    `}
    ${tool === "region" && html`<button type="button" class="plain" onClick=${onAdd}>Add a region without drawing</button>`}
    ${!tool && isPainted && html`<p class="quiet">Only what is painted changes.</p>`}
    ${error && html`<p class="error" role="alert">${error}</p>`}
  `;
}
