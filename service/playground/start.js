// Starts the app after the first frame: modules that came before it would hold it up.

const MODULES = [
  "./access.js", "./api.js", "./board.js", "./composer.js", "./drawing.js",
  "./fields.js", "./history.js", "./history_store.js", "./html.js", "./incoming.js",
  "./mask.js", "./picture_view.js", "./pictures.js", "./plans.js", "./png.js",
  "./recipes.js", "./regions.js", "./results.js", "./styles.js", "./timings.js",
  "./use_board.js", "./use_styles.js", "./vocabulary.js", "./vendor/hooks.mjs", "./vendor/htm.mjs",
  "./vendor/preact.mjs",
];

function start() {
  // All at once, and not each when another one is found to import it.
  for (const name of MODULES) {
    const href = new URL(name, import.meta.url).href;
    document.head.append(Object.assign(document.createElement("link"), { rel: "modulepreload", href }));
  }
  import("./app.js");
}

if (document.hidden) start(); // in a tab behind others there are no frames
else requestAnimationFrame(() => setTimeout(start));
