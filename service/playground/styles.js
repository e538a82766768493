// The panel "Styles": add, choose, look closer, rename, delete.

import * as api from "./api.js";
import { CopyButton, Dialog, html, Icon, useEffect, useObjectUrl, useRef, useState } from "./html.js";

const SAMPLES = ["rose", "dunes", "neon", "wood", "dots", "stripes", "sunset", "watercolour"];

export function nameOf(style) {
  if (style.name) return style.name;
  return style.text ?? `${style.id.slice(0, 12)}…`;
}

export const picturesOf = (list) => [...(list ?? [])].filter((file) => file.type.startsWith("image/"));

export function Styles({ styles, isLoaded, chosen, hasMore, adding, onAdd, onMore, onToggle, onChange, onDelete }) {
  const [shown, show] = useState(null);
  const isChosen = (style) => chosen.some(({ id }) => id === style.id);
  return html`
    <section class="styles" aria-labelledby="styles-title">
      <h2 id="styles-title">Styles</h2>
      <${AddStyle} adding=${adding} onAdd=${onAdd} />
      <div class="shelf">
        ${isLoaded && styles.length === 0 && html`<${Samples} onAdd=${onAdd} />`}
        <ul aria-label="Styles">
          ${styles.map(
            (style) => html`
              <${Card} key=${style.id} style=${style} isChosen=${isChosen(style)} onToggle=${() => onToggle(style)}
                onShow=${() => show(style)} />
            `,
          )}
        </ul>
      </div>
      ${hasMore && html`<button type="button" class="plain" onClick=${onMore}>Show more styles</button>`}
      ${shown &&
      html`<${Details} style=${shown} onClose=${() => show(null)} onChange=${onChange} onDelete=${onDelete} />`}
    </section>
  `;
}

/** `onAdd({files, isOne}` or `{json})` resolves to whether it was added; `adding` is `{isBusy, message}`. */
function AddStyle({ adding, onAdd }) {
  const isOne = useRef();
  const pick = async (event) => {
    const files = picturesOf(event.target.files);
    event.target.value = "";
    await onAdd({ files, isOne: isOne.current.checked });
  };
  return html`
    <div class="add">
      <label class="drop">
        <input type="file" accept="image/*" multiple aria-label="Add a style" aria-describedby="add-message"
          onChange=${pick} />
        <${Icon} name="plus" />
        <strong>Add a style</strong>
        <span class="quiet">Drop a picture anywhere, paste it, or pick a file</span>
      </label>
      <label class="camera">
        <input type="file" accept="image/*" capture="environment" aria-label="Photograph a style" onChange=${pick} />
        Take a photo
      </label>
      <details>
        <summary>From words, a code, or several pictures</summary>
        <${TextForm} label="Style in words" placeholder="watercolour" field="text" onAdd=${onAdd} />
        <${TextForm} label="Style code" placeholder="sc1_…" field="code" onAdd=${onAdd} />
        <label class="check">
          <input type="checkbox" ref=${isOne} /> Several files become one style, their mean
        </label>
      </details>
      <p id="add-message" class=${adding.isBusy ? "quiet" : "error"} role="status">
        ${adding.isBusy ? "Adding the style…" : adding.message}
      </p>
    </div>
  `;
}

function TextForm({ label, placeholder, field, onAdd }) {
  const [text, setText] = useState("");
  const submit = async (event) => {
    event.preventDefault();
    if (await onAdd({ json: { [field]: text } })) setText("");
  };
  return html`
    <form class="line" onSubmit=${submit}>
      <label>
        <span>${label}</span>
        <input type="text" value=${text} placeholder=${placeholder} aria-describedby="add-message"
          autocomplete="off" spellcheck=${field === "text"} onInput=${(event) => setText(event.target.value)} />
      </label>
      <button type="submit" aria-label=${`Add: ${label.toLowerCase()}`}>Add</button>
    </form>
  `;
}

function Samples({ onAdd }) {
  const add = async (name) => {
    const blob = await (await fetch(api.urlOf(`playground/samples/${name}.png`))).blob();
    await onAdd({ files: [new File([blob], `${name}.png`, { type: "image/png" })] });
  };
  return html`
    <div class="samples">
      <p class="quiet" id="samples-title">No picture at hand? Take one of these.</p>
      <ul aria-labelledby="samples-title">
        ${SAMPLES.map(
          (name) => html`
            <li key=${name}>
              <button type="button" aria-label=${`Sample ${name}`} onClick=${() => add(name)}>
                <img src=${`playground/samples/${name}.png`} alt="" width="64" height="64" />
              </button>
            </li>
          `,
        )}
      </ul>
    </div>
  `;
}

function Card({ style, isChosen, onToggle, onShow }) {
  const name = nameOf(style);
  return html`
    <li class="card">
      <button type="button" class="choose" aria-pressed=${isChosen} aria-label=${name} onClick=${onToggle}>
        <${Thumbnail} style=${style} />
        <span class="badge"><${Icon} name="check" /></span>
      </button>
      <span class="name" title=${name} aria-hidden="true">${name}</span>
      <button type="button" class="more" aria-label=${`Details of ${name}`} onClick=${onShow}>
        <${Icon} name="more" />
      </button>
    </li>
  `;
}

/** The style's picture, asked for once it comes into view; its words or its code where there is none. */
export function Thumbnail({ style }) {
  const element = useRef();
  const [blob, setBlob] = useState(null);
  const url = useObjectUrl(blob);
  useEffect(() => {
    if (style.num_images === 0 || style.source !== "images") return undefined;
    const observer = new IntersectionObserver(([entry]) => {
      if (!entry.isIntersecting) return;
      observer.disconnect();
      api.styleImage(style.id).then(setBlob, () => {}); // without its picture a card still has its name
    });
    observer.observe(element.current);
    return () => observer.disconnect();
  }, [style.id]);
  return html`
    <span class="thumbnail" ref=${element}>
      ${url ? html`<img src=${url} alt="" />` : html`<span aria-hidden="true">${glyphOf(style)}</span>`}
    </span>
  `;
}

const glyphOf = (style) => ({ images: "", text: `“${style.text}”`, code: "sc1_" })[style.source];

function Details({ style, onClose, onChange, onDelete }) {
  const [full, setFull] = useState(style);
  const [name, setName] = useState(style.name ?? "");
  const [message, setMessage] = useState("");
  const [isAsking, ask] = useState(false);
  useEffect(() => {
    api.getStyle(style.id).then(setFull, (error) => setMessage(error.message)); // a list may lack the code
  }, [style.id]);
  const trying = (work) => work().catch((error) => setMessage(error.message));
  const rename = (event) => {
    event.preventDefault();
    trying(async () => {
      onChange(await api.renameStyle(style.id, name));
      setMessage("Renamed.");
    });
  };
  const remove = () => {
    if (!isAsking) return ask(true);
    return trying(async () => {
      await api.deleteStyle(style.id);
      onDelete(style.id);
      onClose();
    });
  };
  return html`
    <${Dialog} label=${`Style ${nameOf(style)}`} onClose=${onClose}>
      <h2>${nameOf({ ...full, name: style.name })}</h2>
      <div class="portrait"><${Thumbnail} style=${style} /></div>
      <form class="line" onSubmit=${rename}>
        <label><span>Name</span>
          <input type="text" value=${name} maxlength="200" onInput=${(event) => setName(event.target.value)} />
        </label>
        <button type="submit">Rename</button>
      </form>
      <p class="quiet">${factsOf(full)}</p>
      <div class="actions">
        <${CopyButton} text=${style.id}>Copy ID<//>
        ${full.code && html`<${CopyButton} text=${full.code}>Copy code<//>`}
        <button type="button" class="danger" onClick=${remove} onBlur=${() => ask(false)}>
          ${isAsking ? "Really delete it?" : "Delete"}
        </button>
      </div>
      <p role="status">${message}</p>
    <//>
  `;
}

function factsOf(style) {
  const facts = [];
  if (style.source === "images") {
    facts.push(style.num_images === 1 ? "From one picture" : `The mean of ${style.num_images} pictures`);
    facts.push(`${style.image_width} × ${style.image_height}`);
  } else {
    facts.push(style.source === "text" ? `From the words “${style.text}”` : "From a style code");
  }
  if (style.dominance !== null) facts.push(`dominance ${style.dominance.toFixed(2)}`);
  if (style.agreement !== null) facts.push(`agreement ${style.agreement.toFixed(2)}`);
  return facts.join(" · ");
}
