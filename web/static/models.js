// Models: states as they change, uploads in pieces, and jobs, whose page is opened when they begin.

import { fail, told, wire, wireJobs } from "./forms.js";

const PIECE = 4 << 20, EVERY_MS = 2000, TRIES = 5;
wire("[data-job]");
wireJobs();

/** The API's answer to a request; throws an Error in words, with `again` where trying again may help. */
async function ask(address, body, type = "application/json") {
  let response;
  try { response = await fetch(address, { method: "POST", headers: { "Content-Type": type }, body }); }
  catch { throw Object.assign(new Error("The box cannot be reached. Choose the file again and the upload goes on."), { again: true }); }
  const found = await response.json().catch(() => null);
  if (!response.ok) throw Object.assign(new Error(found?.error?.message ?? `The service answered ${response.status}.`), { again: response.status >= 502 });
  return found;
}

const upload = document.getElementById("upload"), pause = document.getElementById("pause"), bar = document.getElementById("sent");
let paused = false;
pause.addEventListener("click", () => { paused = true; });

upload.addEventListener("submit", async (event) => {
  event.preventDefault();
  const file = document.getElementById("file").files[0];
  paused = false;
  bar.hidden = pause.hidden = false;
  try {
    let state = await ask("/admin/api/uploads", JSON.stringify({ name: file.name.replace(/[^A-Za-z0-9._-]+/g, "-").replace(/^[^A-Za-z0-9]+/, ""), size_bytes: file.size }));
    for (let tries = 0; state.received < state.size_bytes && !paused;) {
      bar.value = state.received / state.size_bytes;
      try {
        state = await ask(`/admin/api/uploads/${state.number}?offset=${state.received}`, file.slice(state.received, state.received + PIECE), "application/octet-stream");
        tries = 0;
      } catch (error) {
        if (!error.again || ++tries >= TRIES) throw error;
        await new Promise((resolve) => setTimeout(resolve, 1000 * tries));
        state = await (await fetch(`/admin/api/uploads/${state.number}`)).json().catch(() => state);
      }
    }
    if (paused) { told("Paused. Choose the same file again to go on."); return; }
    bar.value = 1;
    const job = await ask(`/admin/api/uploads/${state.number}/add`, JSON.stringify({ sha256: document.getElementById("sha").value, name: document.getElementById("called-upload").value || null }));
    location.href = `/admin/jobs/${job.number}`;
  } catch (error) { fail(error); } finally { pause.hidden = true; }
});

function words(engine) {
  if (!engine) return "not loaded";
  const phase = engine.state === "loading" && engine.phase ? ` (${engine.phase}, ${Math.round(engine.progress * 100)} %)` : "";
  return engine.state + phase + (engine.reason ? `: ${engine.reason}` : "");
}

async function refresh() {
  if (!document.hidden) {
    try {
      const response = await fetch("/admin/api/models");
      if (response.status === 401) { location.reload(); return; }
      const found = await response.json();
      for (const row of [...found.models, ...found.others]) {
        const place = document.querySelector(`[data-name="${CSS.escape(row.name)}"] [data-state]`);
        const text = words(row.engine);
        if (place && place.textContent !== text) place.textContent = text;
      }
    } catch { /* the next time */ }
  }
  setTimeout(refresh, EVERY_MS);
}

refresh();
