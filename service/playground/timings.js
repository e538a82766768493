// Where the time of a request went: the stages of Server-Timing, in milliseconds.

import { html } from "./html.js";

const STAGES = {
  queue: "waiting",
  upload: "receiving the picture",
  text: "reading the prompt",
  style: "looking up the style",
  transformer: "the model's steps",
  decode: "decoding",
  encode: "writing the file",
};

export function Timings({ timings }) {
  const { total, ...stages } = timings;
  return html`
    <details class="timings">
      <summary>Where did the time go?</summary>
      <table>
        <thead><tr><th scope="col">stage</th><th scope="col">milliseconds</th><th scope="col">share</th></tr></thead>
        <tbody>
          ${Object.entries(stages).map(
            ([stage, milliseconds]) => html`
              <tr key=${stage}>
                <th scope="row">${STAGES[stage] ?? stage}</th>
                <td>${milliseconds.toFixed(1)}</td>
                <td><meter min="0" max=${total} value=${milliseconds} aria-label=${STAGES[stage] ?? stage}></meter></td>
              </tr>
            `,
          )}
        </tbody>
        <tfoot><tr><th scope="row">in all</th><td>${total.toFixed(1)}</td><td></td></tr></tfoot>
      </table>
    </details>
  `;
}
