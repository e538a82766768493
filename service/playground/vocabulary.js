// What a model of few words draws: its words, to search and to put into the prompt.

import { html, useState } from "./html.js";

const KINDS = { things: "Things", colours: "Colours", media: "Media", poses: "Poses" };
const SEARCHED = 24; // more things than these are not taken in at a glance

const article = (word) => (/^[aeiou]/i.test(word) ? "an" : "a");
const phrase = (colour, thing) => [article(colour ?? thing), colour, thing].filter(Boolean).join(" ");
const escaped = (word) => word.replace(/[^a-z0-9 ]/gi, "\\$&");
const longestFirst = (words) => [...words].sort((a, b) => b.length - a.length);
const oneOf = (words) => (words.length > 0 ? longestFirst(words).map(escaped).join("|") : "(?!)");

/** The prompt with a word more: a thing, medium or pose instead of the one that is there, a colour before its thing. */
export function withWord(prompt, kind, word, { things, colours, media, poses }) {
  const noun = new RegExp(`\\b(?:an? )?(?:(${oneOf(colours)}) )?(${oneOf(things)})\\b`, "i");
  const append = (words) => [prompt.trim(), words].filter(Boolean).join(", ");
  if (kind === "media" || kind === "poses") {
    const same = new RegExp(`\\b(?:${oneOf(kind === "media" ? media : poses)})\\b`, "i");
    return same.test(prompt) ? prompt.replace(same, word) : append(word);
  }
  if (kind === "things") {
    return noun.test(prompt) ? prompt.replace(noun, (_, colour) => phrase(colour, word)) : append(phrase(undefined, word));
  }
  return noun.test(prompt) ? prompt.replace(noun, (_, colour, thing) => phrase(word, thing)) : append(word);
}

/** A prompt to begin with. */
export function exampleOf(draws) {
  if (!draws?.things.length) return "a red house";
  const thing = draws.things[Math.floor(Math.random() * draws.things.length)];
  return phrase(undefined, thing);
}

/** `draws` has a list of words for each of KINDS; `onPick(kind, word)`. */
export function Vocabulary({ name, draws, prompt, onPick }) {
  const [search, setSearch] = useState("");
  const wanted = search.trim().toLowerCase();
  const found = draws.things.filter((thing) => thing.toLowerCase().includes(wanted));
  const shown = { ...draws, things: found };
  const onKeyDown = (event) => {
    if (event.key !== "Enter" || event.ctrlKey || event.metaKey) return;
    event.preventDefault(); // it would draw
    if (wanted && found.length > 0) onPick("things", found[0]);
  };
  return html`
    <section class="vocabulary" id="vocabulary" aria-label=${`What ${name} draws`}>
      ${draws.things.length > SEARCHED &&
      html`
        <input type="search" value=${search} placeholder=${`Search ${draws.things.length} things`} aria-label="Search things"
          onInput=${(event) => setSearch(event.target.value)} onKeyDown=${onKeyDown} />
      `}
      ${Object.entries(KINDS).map(([kind, title]) => draws[kind].length > 0 && html`
        <div class="kind" key=${kind} role="group" aria-label=${title}>
          <span class="quiet" aria-hidden="true">${title}</span>
          <div class="words">
            ${shown[kind].map((word) => html`
              <button type="button" key=${word} onClick=${() => onPick(kind, word)}>${word}</button>
            `)}
            ${shown[kind].length === 0 && html`<p class="quiet">${name} draws no “${search.trim()}”.</p>`}
          </div>
        </div>
      `)}
      <p class="unseen" role="status">${prompt && `Prompt: ${prompt}`}</p>
    </section>
  `;
}
