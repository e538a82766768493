// The mask: painted with a brush, by pointer or by keys. What is painted is transparent in the file, and edited.

import { html, useEffect, useRef, useState } from "./html.js";
import { canvasOf, decoded, pngOf } from "./pictures.js";

const PAINT_SIDE = 1024; // of the longer side of what is painted on, whatever the picture's size
const STEP = 0.05; // of an arrow key, as a share of the picture
const FINE_STEP = 0.01; // with Shift
const STRIPE = 16; // pixels of the canvas
const COLORS = ["#ffffff", "#d8431a"];
const STRIPES = stripes(); // to be seen on any picture

/** A canvas of the picture's shape, without paint. */
export function blankPaint({ width, height }) {
  const scale = PAINT_SIDE / Math.max(width, height);
  const canvas = canvasOf(Math.max(1, Math.round(width * scale)), Math.max(1, Math.round(height * scale)));
  canvas.getContext("2d", { willReadFrequently: true });
  return canvas;
}

/** Diagonal stripes, opaque: how opaque the paint is decides over what is edited. */
function stripes() {
  const tile = canvasOf(2 * STRIPE, 2 * STRIPE);
  const pen = tile.getContext("2d");
  [pen.fillStyle, pen.strokeStyle] = COLORS;
  pen.fillRect(0, 0, tile.width, tile.height);
  pen.lineWidth = STRIPE / Math.SQRT2;
  pen.lineCap = "square";
  for (const left of [-1, 0, 1]) {
    pen.moveTo(left * tile.width, 0);
    pen.lineTo((left + 1) * tile.width, tile.height);
  }
  pen.stroke();
  return pen.createPattern(tile, "repeat");
}

/** The mask as a PNG of the picture's size: transparent where there is paint. */
export function maskOf(paint, { width, height }) {
  const mask = canvasOf(width, height);
  drawWithout(mask, "#000000", paint);
  return pngOf(mask);
}

/** The paint of a mask: where its PNG is transparent. */
export async function paintOf(blob, picture) {
  const paint = blankPaint(picture);
  drawWithout(paint, STRIPES, await decoded(blob));
  return paint;
}

function drawWithout(canvas, fill, image) {
  const context = canvas.getContext("2d");
  context.fillStyle = fill;
  context.fillRect(0, 0, canvas.width, canvas.height);
  context.globalCompositeOperation = "destination-out";
  context.drawImage(image, 0, 0, canvas.width, canvas.height);
  context.globalCompositeOperation = "source-over";
}

export function clearPaint(paint) {
  paint.getContext("2d").clearRect(0, 0, paint.width, paint.height);
}

/** What was painted is not, and the other way round. */
export function invertPaint(paint) {
  const context = paint.getContext("2d");
  context.globalCompositeOperation = "xor";
  context.fillStyle = STRIPES;
  context.fillRect(0, 0, paint.width, paint.height);
  context.globalCompositeOperation = "source-over";
}

export function hasPaint(paint) {
  const { data } = paint.getContext("2d").getImageData(0, 0, paint.width, paint.height);
  for (let at = 3; at < data.length; at += 4) if (data[at] > 127) return true;
  return false;
}

/** A line from one place to another, both in shares of the canvas. */
function stroke(paint, from, to, brush, isErasing) {
  const context = paint.getContext("2d");
  context.globalCompositeOperation = isErasing ? "destination-out" : "source-over";
  context.strokeStyle = context.fillStyle = STRIPES;
  const [x, y] = [to.x * paint.width, to.y * paint.height];
  context.lineWidth = brush * Math.min(paint.width, paint.height);
  context.beginPath();
  context.moveTo(from.x * paint.width, from.y * paint.height);
  context.lineTo(x, y);
  context.stroke();
  context.beginPath();
  context.arc(x, y, context.lineWidth / 2, 0, 2 * Math.PI); // a round end, also of a line without length
  context.fill();
  context.globalCompositeOperation = "source-over";
}

const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
const clamp = (share) => Math.min(1, Math.max(0, share));
const percent = (share) => `${Math.round(100 * share)} %`;

/** The canvas to paint on, over the picture; `brush` is a share of the shorter side. */
export function MaskCanvas({ paint, tool, brush, onPainted }) {
  const host = useRef();
  const isDown = useRef(false);
  const place = useRef({ x: 0.5, y: 0.5 }); // of the brush, now; `at` is what the page shows
  const [at, setAt] = useState(place.current);
  useEffect(() => host.current.replaceChildren(paint), [paint]);

  const isActive = tool === "mask" || tool === "erase";
  const go = (to) => {
    if (isDown.current) stroke(paint, place.current, to, brush, tool === "erase");
    setAt((place.current = to));
  };
  const lift = () => {
    if (!isDown.current) return;
    isDown.current = false;
    onPainted();
  };
  const placeOf = (event) => {
    const box = host.current.getBoundingClientRect();
    return { x: (event.clientX - box.left) / box.width, y: (event.clientY - box.top) / box.height };
  };
  const onPointerDown = (event) => {
    if (event.button !== 0) return;
    event.currentTarget.setPointerCapture(event.pointerId);
    place.current = placeOf(event);
    isDown.current = true;
    go(place.current);
  };
  const onPointerMove = (event) => {
    for (const part of event.getCoalescedEvents?.() ?? []) go(placeOf(part));
    go(placeOf(event));
  };
  const onKeyDown = (event) => {
    const isPaint = event.key === " " || event.key === "Enter";
    if (event.ctrlKey || event.metaKey || !(isPaint || event.key in ARROWS)) return;
    event.preventDefault();
    if (isPaint) {
      isDown.current = true;
      return go(place.current);
    }
    const step = event.shiftKey ? FINE_STEP : STEP;
    const [x, y] = ARROWS[event.key];
    const { current } = place;
    return go({ x: clamp(current.x + x * step), y: clamp(current.y + y * step) });
  };
  const handlers = isActive && {
    ...{ onPointerDown, onPointerMove, onPointerUp: lift, onPointerCancel: lift },
    ...{ onKeyDown, onKeyUp: lift, onBlur: lift },
    ...{ tabIndex: 0, role: "application", "aria-label": "Mask", "aria-describedby": "mask-keys" },
  };
  const diameter = brush * Math.min(paint.width, paint.height);
  const ring = { left: `${100 * at.x}%`, top: `${100 * at.y}%`, width: `${(100 * diameter) / paint.width}%` };
  return html`
    <div class=${isActive ? "mask is-active" : "mask"} ...${handlers}>
      <div class="paint" ref=${host}></div>
      ${isActive && html`<span class="brush" style=${ring}></span>`}
      <span class="unseen" id="mask-keys">Arrow keys move the brush, with Shift by less; Space paints or erases.</span>
      <span class="unseen" role="status">${isActive && `Brush at ${percent(at.x)}, ${percent(at.y)}`}</span>
    </div>
  `;
}
