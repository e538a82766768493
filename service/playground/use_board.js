// The board's state: the picture that is edited, its mask, and the regions with a style each.

import { useState } from "./html.js";
import { blankPaint, maskOf, paintOf } from "./mask.js";
import { readPicture } from "./pictures.js";
import { fileName } from "./recipes.js";

// What the service takes where a request names no structure.
const STYLED_STRUCTURE = 0.75;
const PROMPTED_STRUCTURE = 0.5;
const MASKED_STRUCTURE = 0;
const EMPTY = { picture: null, paint: null, isPainted: false, regions: [], structure: null, tool: null, message: "" };

export function useBoard() {
  const [board, setBoard] = useState(EMPTY);
  const change = (fields) => setBoard((now) => ({ ...now, ...fields }));
  return {
    ...board,
    change,

    /** Edit a file, `{blob}`, or a result. */
    async setPicture(source) {
      try {
        const picture = await readPicture(source.blob, source.recipe ? fileName(source) : source.blob?.name);
        change({ picture, paint: blankPaint(picture), isPainted: false, message: "" });
      } catch (error) {
        change({ message: error.message });
      }
    },

    removePicture: () =>
      setBoard(({ regions, tool }) => ({ ...EMPTY, regions, tool: tool === "region" ? tool : null })),

    /** As it was when a result was drawn. */
    async restore({ recipe, files }) {
      const { regions = [], structure = null } = recipe;
      const picture = files?.image ?? null;
      const paint = picture && (files.mask ? await paintOf(files.mask.blob, picture) : blankPaint(picture));
      const keyed = regions.map((region) => ({ ...region, key: crypto.getRandomValues(new Uint32Array(1))[0] }));
      setBoard({ ...EMPTY, picture, paint, isPainted: Boolean(files?.mask), regions: keyed, structure });
    },

    /** What was chosen, or what the service takes by default. */
    structureUsed(hasStyle) {
      const unstyled = board.isPainted ? MASKED_STRUCTURE : PROMPTED_STRUCTURE;
      return board.structure ?? (hasStyle ? STYLED_STRUCTURE : unstyled);
    },

    /** `{image, mask}` of an edit; undefined without a picture. */
    async files(seed) {
      const { picture, paint, isPainted } = board;
      if (!picture) return undefined;
      if (!isPainted) return { image: picture };
      const name = `${picture.name.replace(/\.[^.]*$/, "")}-mask-${seed}.png`;
      return { image: picture, mask: { name, blob: await maskOf(paint, picture) } };
    },
  };
}
