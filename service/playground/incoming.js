// Pictures that are dropped or pasted: on the prompt they are edited, anywhere else they become styles.

import { useEffect } from "./html.js";
import { titleOf } from "./recipes.js";
import { picturesOf } from "./styles.js";

export const drag = { result: null }; // the result that is being dragged

const ZONE = "[data-drop=picture]";

const isOnPrompt = (event) => event.target instanceof Element && event.target.closest(ZONE) !== null;

/** `onStyles({files, name})` and `onPicture(file, name)`; several files on the prompt: the first. */
export function useIncomingPictures({ onStyles, onPicture }) {
  useEffect(() => {
    const page = document.documentElement.classList;
    const mark = (isOver, isPicture = false) => {
      page.toggle("is-dropping", isOver && !isPicture);
      page.toggle("is-dropping-picture", isOver && isPicture);
    };
    const onDragOver = (event) => {
      if (!drag.result && !event.dataTransfer.types.includes("Files")) return;
      event.preventDefault();
      mark(true, isOnPrompt(event));
    };
    const onDragLeave = (event) => event.relatedTarget === null && mark(false);
    const onDrop = (event) => {
      const { result } = drag;
      const isText = !result && !event.dataTransfer.types.includes("Files");
      if (isText) return; // words that are dragged into the prompt
      event.preventDefault();
      mark(false);
      const files = picturesOf(event.dataTransfer.files);
      if (isOnPrompt(event)) onPicture(result ?? { blob: files[0] });
      else onStyles(result ? { files: [result.blob], name: titleOf(result).slice(0, 200) } : { files });
    };
    const onPaste = (event) => {
      const files = picturesOf(event.clipboardData.files);
      if (files.length === 0) return;
      if (isOnPrompt(event)) onPicture({ blob: files[0] });
      else onStyles({ files: files.map((file) => new File([file], "", { type: file.type })) });
    };
    const listeners = { dragover: onDragOver, dragleave: onDragLeave, drop: onDrop, paste: onPaste };
    for (const [name, listener] of Object.entries(listeners)) document.addEventListener(name, listener);
    return () => {
      for (const [name, listener] of Object.entries(listeners)) document.removeEventListener(name, listener);
    };
  }, []);
}
