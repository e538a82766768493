// The API key, once the service has asked for one. It stays in this tab.

import { apiKey } from "./api.js";
import { html, useEffect, useState } from "./html.js";

export function KeyForm({ onKey }) {
  const [reason, setReason] = useState(null);
  const [key, setKey] = useState("");
  useEffect(() => {
    const ask = (event) => setReason(event.detail);
    addEventListener("atelier:key-needed", ask);
    return () => removeEventListener("atelier:key-needed", ask);
  }, []);
  if (reason === null) return null;
  const submit = (event) => {
    event.preventDefault();
    apiKey.set(key.trim());
    setReason(null);
    onKey();
  };
  return html`
    <form class="key line" aria-label="Access" onSubmit=${submit}>
      <label for="api-key"><span>API key</span></label>
      <input id="api-key" type="password" autocomplete="off" value=${key} placeholder="atl_…"
        aria-describedby="key-reason" onInput=${(event) => setKey(event.target.value)} />
      <button type="submit">Use it</button>
      <p id="key-reason" class="error" role="alert">${reason}</p>
    </form>
  `;
}
