// Regions: boxes on the board with a style each, drawn, moved and resized by pointer or by keys.

import { html, Icon, useEffect, useRef, useState } from "./html.js";
import { nameOf, Thumbnail } from "./styles.js";

export const MAX_REGIONS = 8;
const MIN_SIDE = 0.04; // of a box, as a share of the image
const TAPPED_SIDE = 0.4; // of the box that a tap makes
const STEP = 0.02; // of an arrow key
const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
const SIDES = ["Left", "Top", "Right", "Bottom"];

const clamp = (share, least = 0, most = 1) => Math.min(most, Math.max(least, share));
const percents = (box) => box.map((side) => Math.round(100 * side));

function moved([left, top, right, bottom], x, y) {
  const across = clamp(x, -left, 1 - right);
  const down = clamp(y, -top, 1 - bottom);
  return [left + across, top + down, right + across, bottom + down];
}

const resized = ([left, top, right, bottom], x, y) => [
  left,
  top,
  clamp(right + x, left + MIN_SIDE),
  clamp(bottom + y, top + MIN_SIDE),
];

const boxBetween = (from, to) => [
  Math.min(from.x, to.x),
  Math.min(from.y, to.y),
  Math.max(from.x, to.x),
  Math.max(from.y, to.y),
];

/** Between two places; around a place that was only tapped. */
function drawnBox(from, to) {
  const box = boxBetween(from, to);
  if (box[2] - box[0] >= MIN_SIDE && box[3] - box[1] >= MIN_SIDE) return box;
  return moved([0, 0, TAPPED_SIDE, TAPPED_SIDE], from.x - TAPPED_SIDE / 2, from.y - TAPPED_SIDE / 2);
}

/** The boxes over the board. `onAdd(box)`, `onChange(index, fields)`, `onRemove(index)`. */
export function Boxes({ regions, styles, tool, onAdd, onChange, onRemove }) {
  const layer = useRef();
  const gesture = useRef(null);
  const [draft, setDraft] = useState(null);

  const placeOf = (event) => {
    const { left, top, width, height } = layer.current.getBoundingClientRect();
    return { x: clamp((event.clientX - left) / width), y: clamp((event.clientY - top) / height) };
  };
  const onPointerDown = (event) => {
    if (event.button !== 0) return;
    const element = event.target.closest("[data-index]");
    if (!element && tool !== "region") return;
    layer.current.setPointerCapture(event.pointerId);
    const index = element && Number(element.dataset.index);
    const change = event.target.classList.contains("grip") ? resized : moved;
    gesture.current = { from: placeOf(event), index, change, box: element && regions[index].box };
  };
  const onPointerMove = (event) => {
    if (!gesture.current) return;
    const { from, index, change, box } = gesture.current;
    const to = placeOf(event);
    if (box) onChange(index, { box: change(box, to.x - from.x, to.y - from.y) });
    else setDraft(boxBetween(from, to));
  };
  const onPointerUp = (event) => {
    if (gesture.current && !gesture.current.box) onAdd(drawnBox(gesture.current.from, placeOf(event)));
    onPointerCancel();
  };
  const onPointerCancel = () => {
    gesture.current = null;
    setDraft(null);
  };
  const onKeyDown = (event, index) => {
    if (event.key === "Delete" || event.key === "Backspace") return onRemove(index);
    if (!(event.key in ARROWS)) return undefined;
    event.preventDefault();
    const [x, y] = ARROWS[event.key];
    const change = event.shiftKey ? resized : moved;
    return onChange(index, { box: change(regions[index].box, x * STEP, y * STEP) });
  };
  const handlers = { onPointerDown, onPointerMove, onPointerUp, onPointerCancel };
  return html`
    <div class=${`boxes tool-${tool ?? "none"}`} ref=${layer} ...${handlers}>
      ${regions.map((region, index) => {
        const style = styles.find(({ id }) => id === region.style);
        const [left, top, right, bottom] = percents(region.box);
        const label = `Region ${index + 1}: ${style ? nameOf(style) : "no style"}, ${left} to ${right} % across, ${top} to ${bottom} % down`;
        return html`
          <button type="button" class="box" key=${region.key} data-index=${index} style=${placed(region.box)}
            aria-label=${label} aria-describedby="region-keys" onKeyDown=${(event) => onKeyDown(event, index)}>
            <span class="tag">${style && html`<${Thumbnail} style=${style} />`}${index + 1}</span>
            <span class="grip"></span>
          </button>
        `;
      })}
      <span class="unseen" id="region-keys">Arrow keys move it, with Shift they resize it; Delete removes it.</span>
      ${draft && html`<span class="box draft" style=${placed(draft)}></span>`}
    </div>
  `;
}

const placed = ([left, top, right, bottom]) => ({
  left: `${100 * left}%`,
  top: `${100 * top}%`,
  width: `${100 * (right - left)}%`,
  height: `${100 * (bottom - top)}%`,
});

/** The same as a list: style, strength and place of each. */
export function RegionList({ regions, styles, errorOf, onChange, onRemove }) {
  if (regions.length === 0) return null;
  return html`
    <ul class="regions" aria-label="Regions">
      ${regions.map(
        (region, index) => html`
          <${Row} key=${region.key} region=${region} number=${index + 1} styles=${styles} 
            errorOf=${(control) => errorOf(`region-${index}-${control}`)}
            onChange=${(fields) => onChange(index, fields)} onRemove=${() => onRemove(index)} />
        `,
      )}
    </ul>
  `;
}

/** `errorOf("style")`, "box" and "strength": what was said of these. */
function Row({ region, number, styles, errorOf, onChange, onRemove }) {
  const place = useRef();
  const isKnown = styles.some(({ id }) => id === region.style);
  const errorId = `region-${number}-error`;
  const error = errorOf("style") ?? errorOf("strength") ?? errorOf("box");
  const described = (control) => errorOf(control) && { "aria-invalid": "true", "aria-describedby": errorId };
  useEffect(() => {
    if (errorOf("box")) place.current.open = true;
  }, [error]);
  return html`
    <li class="region">
      <span class="number" aria-hidden="true">${number}</span>
      <select aria-label=${`Style of region ${number}`} ...${described("style")} value=${region.style}
        onChange=${(event) => onChange({ style: event.target.value })}>
        ${!isKnown && html`<option value=${region.style}>a style that is not in the list</option>`}
        ${styles.map((style) => html`<option key=${style.id} value=${style.id}>${nameOf(style)}</option>`)}
      </select>
      <button type="button" class="remove" aria-label=${`Remove region ${number}`} onClick=${onRemove}>
        <${Icon} name="close" />
      </button>
      <span class="amount">
        <input type="range" min="0" max="1.5" step="0.05" value=${region.strength}
          aria-label=${`Strength of region ${number}`} ...${described("strength")}
          onInput=${(event) => onChange({ strength: Number(event.target.value) })} />
        <output aria-hidden="true">${region.strength.toFixed(2)}</output>
      </span>
      <details ref=${place}>
        <summary>Place in percent</summary>
        <${Place} box=${region.box} number=${number} described=${described("box")} onChange=${(box) => onChange({ box })} />
      </details>
      ${error && html`<p class="error" role="alert" id=${errorId}>${error}</p>`}
    </li>
  `;
}

function Place({ box, number, described, onChange }) {
  const set = (side, text) => {
    if (text !== "") onChange(box.map((share, index) => (index === side ? Number(text) / 100 : share)));
  };
  return html`
    <span class="place">
      ${SIDES.map(
        (name, side) => html`
          <label key=${name}>
            <span>${name}<span class="unseen"> of region ${number}</span></span>
            <input type="number" min="0" max="100" ...${described} value=${percents(box)[side]}
              onInput=${(event) => set(side, event.target.value)} />
          </label>
        `,
      )}
    </span>
  `;
}
