// Keeps the first admin page up to date: every two seconds while something happens, every ten while nothing does, not at all out of sight.

const BUSY_MS = 2000, QUIET_MS = 10000;
const SVG = "http://www.w3.org/2000/svg";
const live = (name) => document.querySelector(`[data-live="${name}"]`);
const gb = (bytes) => `${(bytes / 1e9).toFixed(1)} GB`;
const percent = (share) => (share === null ? "–" : `${Math.round(share * 100)} %`);

function put(name, text) {
  const node = live(name);
  if (node && node.textContent !== text) node.textContent = text;
}

function cell(row, text, number = false) {
  const made = row.insertCell();
  made.textContent = text;
  if (number) made.className = "number";
}

function show(now) {
  put("tokens_per_s", now.tokens_per_s.toFixed(0));
  put("running", String(now.running));
  put("waiting", String(now.waiting));
  put("first_token_s", now.first_token_s === null ? "–" : `${now.first_token_s.toFixed(1)} s`);
  put("hit_share", percent(now.hit_share));
  put("memory", `${gb(now.machine.memory.free)} of ${gb(now.machine.memory.total)}`);
  put("disk", gb(now.machine.disk.free));
  if (now.machine.temperature_c !== null) put("temperature", `${Math.round(now.machine.temperature_c)} °C`);
  live("attention").replaceChildren(...now.attention.map((sentence) => Object.assign(document.createElement("p"), { className: "notice", textContent: sentence })));
  const models = live("models");
  models.replaceChildren();
  for (const [name, state] of Object.entries(now.models)) {
    const row = models.insertRow();
    row.append(Object.assign(document.createElement("th"), { scope: "row", textContent: name }));
    cell(row, state.reason ? `${state.state}: ${state.reason}` : state.state);
    cell(row, state.task);
    cell(row, state.threads ?? "–", true);
    cell(row, state.cpus?.join(", ") || "–");
    cell(row, state.sequences_running, true);
    cell(row, state.requests_waiting, true);
    cell(row, Object.values(state.restarts).reduce((sum, count) => sum + count, 0), true);
  }
  now.machine.cpu_by_core.forEach((share, at) => { const meter = document.getElementById(`core-${at}`); if (meter) meter.value = share; });
  draw(now.history);
  const table = live("table");
  table.replaceChildren();
  for (const minute of now.minutes) {
    const row = table.insertRow();
    cell(row, new Date(minute.at * 1000).toISOString().slice(11, 16));
    cell(row, minute.tokens_per_s.toFixed(0), true);
    cell(row, minute.answers, true);
    cell(row, minute.hits, true);
    cell(row, minute.first_token_s === null ? "–" : minute.first_token_s.toFixed(1), true);
    cell(row, percent(minute.cpu), true);
  }
}

function draw(history) {
  const charts = [
    ["Tokens a second", (sample) => sample.tokens_per_s, (most) => most.toFixed(0)],
    ["First token after, s", (sample) => sample.first_token_s ?? 0, (most) => most.toFixed(1)],
    ["Processor", (sample) => sample.cpu, percent, 1],
  ];
  live("charts").replaceChildren(...charts.map(([title, value, told, most]) => chart(title, history.map(value), told, most)));
}

/** A line over the last hour; the table below says the same in figures. */
function chart(title, values, told, most = Math.max(...values, 1e-9)) {
  const box = document.createElement("figure");
  const drawn = document.createElementNS(SVG, "svg");
  drawn.setAttribute("viewBox", "0 0 360 100");
  drawn.setAttribute("preserveAspectRatio", "none");
  drawn.setAttribute("role", "img");
  drawn.setAttribute("aria-label", `${title} in the last hour, at most ${told(Math.max(...values, 0))}`);
  const line = document.createElementNS(SVG, "polyline");
  const first = 360 - values.length;
  line.setAttribute("points", values.map((value, at) => `${first + at},${98 - 96 * Math.min(1, value / most)}`).join(" "));
  drawn.append(line);
  const name = document.createElement("figcaption");
  name.textContent = values.length ? `${title}, up to ${told(Math.max(...values, 0))}` : `${title}: nothing yet`;
  box.append(name, drawn);
  return box;
}

async function refresh() {
  let wait = QUIET_MS;
  if (!document.hidden) {
    try {
      const response = await fetch("/admin/api/now");
      if (response.status === 401) { location.reload(); return; }
      if (response.ok) {
        const now = await response.json();
        show(now);
        if (now.running || now.waiting) wait = BUSY_MS;
      }
    } catch { put("attention", "The box cannot be reached."); }
  }
  setTimeout(refresh, wait);
}

refresh();
