// Backups, and the log: what came since the page was opened, as long as it is to be followed.

import { wire, wireJobs } from "./forms.js";

wire("[data-job]");
wireJobs();
const EVERY_MS = 2000, MOST_CHARS = 400000;
const log = document.getElementById("log"), follow = document.getElementById("follow");
const shown = new URLSearchParams(location.search);
log.scrollTop = log.scrollHeight;

async function refresh() {
  if (follow.checked && !document.hidden) {
    try {
      const wish = new URLSearchParams({ level: shown.get("level") ?? "info", q: shown.get("q") ?? "", after: log.dataset.after });
      const response = await fetch(`/admin/api/log?${wish}`);
      if (response.status === 401) { location.reload(); return; }
      const { lines } = await response.json();
      const atEnd = log.scrollTop + log.clientHeight >= log.scrollHeight - 8;
      for (const line of lines) log.append(`${new Date(line.at * 1000).toISOString().slice(11, 16)} ${line.level} ${line.text}\n`);
      if (lines.length) log.dataset.after = lines.at(-1).number;
      if (log.textContent.length > MOST_CHARS) log.textContent = log.textContent.slice(-MOST_CHARS / 2);
      if (lines.length && atEnd) log.scrollTop = log.scrollHeight;
    } catch { /* the next time */ }
  }
  setTimeout(refresh, EVERY_MS);
}

refresh();
