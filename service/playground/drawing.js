// What is being drawn: the requests of a plan, and the images as they come in.

import { bytesOf, drawing, isCompleted } from "./api.js";
import { useRef, useState } from "./html.js";

export const imageOf = (event) => new Blob([bytesOf(event.b64_json)], { type: `image/${event.output_format}` });

/** Each image that is asked for, before there is anything to see. */
const blankTiles = (requests, size) =>
  requests
    .flatMap((request) => request.tiles)
    .map((tile, index) => ({ ...tile, index, size, step: 0, numSteps: 0 }));

/** The tile as an event shows it: with a preview, or with its result. */
function tileAfter(tile, event, base, files) {
  const changed = { ...tile, step: event.step, numSteps: event.num_steps };
  if (!isCompleted(event)) {
    return { ...changed, preview: `data:image/${event.output_format};base64,${event.b64_json}` };
  }
  const recipe = { ...base, size: event.size, seed: event.seed, ...tile.styling };
  if (files) recipe.structure = event.structure;
  return { ...changed, result: { blob: imageOf(event), recipe, files, label: tile.label, created: Date.now() } };
}

/** The share of all steps that is done, 0 to 1. */
const progressOf = (tiles) =>
  tiles.reduce((sum, { step, numSteps }) => sum + (numSteps && step / numSteps), 0) / tiles.length;

const roughly = (seconds) => (seconds < 1 ? "less than a second left" : `about ${Math.round(seconds)} s left`);

/** `[set, draw, cancel]`: what is being drawn or was drawn last, and how to begin and to end it.
 *
 * `draw({requests, base, files, size})` takes the requests of a plan, the fields that they share, the files of an
 * edit, and [width, height] of the images.
 */
export function useDrawing({ onResult, onError }) {
  const [set, setSet] = useState(null);
  const abort = useRef(null);
  const change = (fields) => setSet((current) => ({ ...current, ...fields }));

  const draw = async ({ requests, base, files, size }) => {
    const tiles = blankTiles(requests, size);
    const warnings = new Set();
    const began = performance.now();
    const secondsSince = () => (performance.now() - began) / 1000;
    const onWait = (message) => change({ message: message ?? "Drawing…" });
    abort.current?.abort();
    const { signal } = (abort.current = new AbortController());

    const onEvent = (index, event) => {
      tiles[index] = tileAfter(tiles[index], event, base, files);
      if (tiles[index].result) onResult(tiles[index].result);
      for (const warning of event.warnings ?? []) warnings.add(warning);
      const progress = progressOf(tiles);
      const left = roughly(secondsSince() * (1 / progress - 1));
      const estimate = `step ${event.step} of ${event.num_steps}, ${left}`;
      change({ tiles: [...tiles], progress, estimate, warnings: [...warnings] });
      if (event.timings) change({ timings: event.timings });
    };

    onError(null);
    setSet({ tiles, began, prompt: (base.prompt ?? "").trim(), isRunning: true, progress: 0, message: "Drawing…", estimate: "", warnings: [], timings: null });
    try {
      let offset = 0;
      for (const { body, tiles: some } of requests) {
        for await (const event of drawing(body, files, { signal, onWait })) onEvent(offset + event.image_index, event);
        offset += some.length;
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
