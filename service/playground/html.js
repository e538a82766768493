// Preact with htm's templates: texts become text nodes, never markup.
import { h } from "./vendor/preact.mjs";
import htm from "./vendor/htm.mjs";
import { useEffect, useMemo, useRef } from "./vendor/hooks.mjs";

export { render } from "./vendor/preact.mjs";
export { useCallback, useEffect, useMemo, useRef, useState } from "./vendor/hooks.mjs";

export const html = htm.bind(h);

/** An address for a Blob while the component shows it. */
export function useObjectUrl(blob) {
  const url = useMemo(() => (blob ? URL.createObjectURL(blob) : undefined), [blob]);
  useEffect(() => () => url && URL.revokeObjectURL(url), [url]);
  return url;
}

/** A modal dialog, which keeps the focus, closes with Escape, and gives the focus back. */
export function Dialog({ label, onClose, children }) {
  const element = useRef();
  useEffect(() => {
    element.current.showModal();
  }, []);
  return html`
    <dialog
      ref=${element}
      aria-label=${label}
      onClose=${onClose}
      onClick=${(event) => event.target === element.current && element.current.close()}
    >
      <div class="dialog-body">
        ${children}
        <button type="button" class="close" aria-label="Close" onClick=${() => element.current.close()}>
          <${Icon} name="close" />
        </button>
      </div>
    </dialog>
  `;
}

const PATHS = {
  close: "M6 6l12 12M18 6L6 18",
  check: "M5 12.5l4.5 4.5L19 7.5",
  more: "M6 12h.01M12 12h.01M18 12h.01",
  picture: "M4 5h16v14H4zM4 16l5-5 4 4 3-3 4 4M15.5 9h.01",
  region: "M4 4h7v7H4zM14 4h6v16h-6zM4 14h7v6H4z",
  plus: "M12 5v14M5 12h14",
  locked: "M7 11V8a5 5 0 0 1 10 0v3M5.5 11h13v9h-13z",
  unlocked: "M7 11V8a5 5 0 0 1 9.6-2M5.5 11h13v9h-13z",
};

export const Icon = ({ name }) => html`
  <svg class="icon" viewBox="0 0 24 24" aria-hidden="true"><path d=${PATHS[name]} /></svg>
`;

/** icon.svg, drawn in place: as an image it would be a document of its own, which delays the first frame. */
export const Mark = () => html`
  <svg viewBox="0 0 32 32" width="28" height="28" aria-hidden="true">
    <rect width="32" height="32" rx="8" fill="#b4451f" />
    <path d="M16 6 7.5 26h4l1.7-4.4h5.6L20.5 26h4L16 6Z" fill="none" stroke="#fff" stroke-width="2"
      stroke-linejoin="round" />
    <circle cx="16" cy="16.5" r="2.2" fill="#ffd9a8" />
  </svg>
`;

/** A button that says for a moment that it has done its work. */
export function CopyButton({ text, children }) {
  const status = useRef();
  const onClick = async () => {
    await copyText(typeof text === "function" ? text() : text);
    status.current.textContent = "Copied";
    setTimeout(() => status.current && (status.current.textContent = ""), 1500);
  };
  return html`
    <span class="copy">
      <button type="button" onClick=${onClick}>${children}</button>
      <span role="status" ref=${status}></span>
    </span>
  `;
}

async function copyText(text) {
  if (navigator.clipboard) return navigator.clipboard.writeText(text);
  // Pages of plain HTTP beyond loopback have no clipboard of their own.
  const area = document.createElement("textarea");
  area.value = text;
  (document.querySelector("dialog[open]") ?? document.body).append(area);
  area.select();
  document.execCommand("copy");
  area.remove();
}
