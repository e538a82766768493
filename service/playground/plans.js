// What a press of a button asks for: requests, and for each of their images a label and its styling.
//
// A plan gives a list of `{body, tiles}`. `form` has the fields of the page, and what is on the board: `regions`.

import { nameOf } from "./styles.js";

export const MAX_IMAGES = 10; // in one request
const SWEEP = [0, 0.25, 0.5, 0.75, 1];

const times = (count, make) => Array.from({ length: count }, (_, index) => make(index));

/** What all requests of a form have in common. An edit may do without a prompt. */
export function baseOf({ prompt, size, seed, guidance, picture, structure }) {
  const base = { size, seed };
  if (!picture) base.prompt = prompt;
  // A form's text has its lines ended by CR LF, and no space around it: without either, a copied command sends the same.
  else if (prompt.trim() !== "") base.prompt = prompt.trim().replaceAll(/\s*\n\s*/g, " ");
  if (guidance !== "") base.guidance = Number(guidance);
  if (picture && structure !== null) base.structure = structure;
  return base;
}

/** The fields of a request that say in which style. */
function stylingOf({ chosen, regions }, strength) {
  if (regions.length > 0) {
    return { regions: regions.map((region) => regionOf(region, strength)) };
  }
  if (chosen.length === 0) return {};
  if (chosen.length === 1) return { style: { id: chosen[0].id, strength } };
  return { styles: chosen.map(({ id, weight }) => ({ id, weight })), strength };
}

const regionOf = ({ style, box, strength }, shared) => ({
  style,
  box: box.map((side) => Number(side.toFixed(4))),
  strength: shared ?? strength,
});

function labelOf({ chosen, regions, styles }) {
  if (regions.length > 0) {
    const named = regions.map(({ style }) => styles.find(({ id }) => id === style));
    return named.map((style) => (style ? nameOf(style) : "a style")).join(" | ");
  }
  return chosen.length === 0 ? "without a style" : chosen.map(({ style }) => nameOf(style)).join(" + ");
}

/** Images in a style each, several to a request: they share the work on the prompt. */
function sideBySide(base, tiles) {
  return times(Math.ceil(tiles.length / MAX_IMAGES), (index) => {
    const some = tiles.slice(index * MAX_IMAGES, (index + 1) * MAX_IMAGES);
    return { body: { ...base, styles_each: some.map(({ styling }) => styling.style) }, tiles: some };
  });
}

export const plans = {
  draw(base, form) {
    const styling = stylingOf(form, form.regions.length > 0 ? undefined : form.strength);
    const tile = { label: labelOf(form), styling };
    return [{ body: { ...base, n: form.count, ...styling }, tiles: times(form.count || 1, () => tile) }];
  },

  /** All styles side by side. */
  all(base, { styles, strength }) {
    const tiles = styles.map((style) => ({ label: nameOf(style), styling: { style: { id: style.id, strength } } }));
    return sideBySide(base, tiles);
  },

  /** The same seed, more and more of the style. */
  sweep(base, form) {
    const tiles = SWEEP.map((strength) => ({ label: `strength ${strength}`, styling: stylingOf(form, strength) }));
    if (tiles[0].styling.style) return sideBySide(base, tiles);
    return tiles.map((tile) => ({ body: { ...base, ...tile.styling }, tiles: [tile] }));
  },
};

const SIDES = ["Left", "Top", "Right", "Bottom"];

/** What is wrong with a region's place, in percent as the page shows it; null if nothing is. */
function problemOfPlace({ box }, number) {
  const percents = box.map((side) => Math.round(100 * side));
  const beyond = box.findIndex((side) => side < 0 || side > 1);
  if (beyond >= 0) return `${SIDES[beyond]} of region ${number} is ${percents[beyond]} %; it must be from 0 to 100 %.`;
  for (const [near, far] of [[0, 2], [1, 3]]) {
    if (box[near] >= box[far]) {
      return `${SIDES[near]} of region ${number} is ${percents[near]} %; it must be less than ${SIDES[far]}, ${percents[far]} %.`;
    }
  }
  return null;
}

/** Why a plan cannot be drawn, as an error of the service would say it; null if it can. */
export function problemOf(plan, { chosen, regions, styles }) {
  for (const [index, region] of regions.entries()) {
    const message = problemOfPlace(region, index + 1);
    if (message) return { param: `regions.${index}.box`, message };
  }
  if (plan === "sweep" && chosen.length === 0 && regions.length === 0) {
    return { param: "style", message: "A strength sweep needs a style: choose one." };
  }
  if (plan === "all" && styles.length === 0) return { param: "style", message: "There is no style yet: add one first." };
  if (plan === "all" && regions.length > 0) {
    return { param: "regions", message: "In all my styles, each image has one style: remove the regions first." };
  }
  return null;
}
