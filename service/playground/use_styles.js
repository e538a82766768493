// The styles of the service, which of them are chosen, and what came of adding one.

import * as api from "./api.js";
import { useState } from "./html.js";

const nameOfFile = (file) => (file.name ?? "").replace(/\.[^.]*$/, "").slice(0, 200);

export function useStyles() {
  const [styles, setStyles] = useState([]);
  const [isLoaded, setLoaded] = useState(false);
  const [chosen, setChosen] = useState([]);
  const [hasMore, setHasMore] = useState(false);
  const [adding, setAdding] = useState({ isBusy: false, message: "" });

  const page = async (before, after) => {
    const found = await api.listStyles(after);
    setStyles([...before, ...found.data]);
    setHasMore(found.has_more);
    setLoaded(true);
  };
  const put = (style) => setStyles((now) => [style, ...now.filter(({ id }) => id !== style.id)]);

  /** Of `{files, name, isOne}` or `{json}`: whether all of it was added. */
  const add = async ({ files = [], name, isOne = false, json }) => {
    const creations = json
      ? [() => api.createStyle(json)]
      : isOne && files.length > 0
        ? [() => api.uploadStyle(files, name ?? nameOfFile(files[0]))]
        : files.map((file) => () => api.uploadStyle([file], name ?? nameOfFile(file)));
    const warnings = [];
    setAdding({ isBusy: true, message: "" });
    try {
      for (const create of creations) {
        const style = await create();
        warnings.push(...style.warnings.map(api.sentence));
        put(style);
        setChosen([{ id: style.id, style, weight: 1 }]);
      }
      const isNothing = creations.length === 0;
      const nothing = "That was no picture; PNG, JPEG, WebP and GIF are.";
      setAdding({ isBusy: false, message: isNothing ? nothing : warnings.join(" ") });
      return !isNothing;
    } catch (error) {
      setAdding({ isBusy: false, message: error.message });
      return false;
    }
  };
  const isIn = (style) => chosen.some(({ id }) => id === style.id);
  const without = (id) => setChosen((now) => now.filter((one) => one.id !== id));
  return {
    styles,
    isLoaded,
    chosen,
    setChosen,
    /** Those of `[{id, weight}]` that are in the list. */
    choose: (named) =>
      setChosen(
        named.flatMap(({ id, weight = 1 }) => styles.filter((one) => one.id === id).map((style) => ({ id, style, weight }))),
      ),
    hasMore,
    adding,
    add,
    load: () => page([]),
    more: () => page(styles, styles.at(-1).id).catch((error) => setAdding({ isBusy: false, message: error.message })),
    toggle: (style) => (isIn(style) ? without(style.id) : setChosen([...chosen, { id: style.id, style, weight: 1 }])),
    change(style) {
      setStyles((now) => now.map((one) => (one.id === style.id ? style : one)));
      setChosen((now) => now.map((one) => (one.id === style.id ? { ...one, style } : one)));
    },
    remove(id) {
      setStyles((now) => now.filter((one) => one.id !== id));
      without(id);
    },
  };
}
