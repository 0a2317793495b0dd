// Jobs: how far those that run are, and the log of one, until it is over.

import { wire } from "./forms.js";

const EVERY_MS = 1500;
wire();
const log = document.getElementById("log");

async function get(address) {
  const response = await fetch(address);
  if (response.status === 401) location.reload();
  return response.ok ? response.json() : null;
}

function show(place, job) {
  const share = job.share === null ? "" : `, ${Math.round(job.share * 100)} %`;
  const words = `${job.ending ? "being ended" : job.state}${share}${job.label ? ` (${job.label})` : ""}`;
  const node = place.querySelector("[data-state]");
  if (node.textContent !== words) node.textContent = words;
  const bar = document.getElementById("share");
  if (bar && job.share !== null) bar.value = job.share;
}

/** What came since; true when there may be more at once. */
async function follow(place) {
  const job = await get(`/admin/api/jobs/${place.dataset.job}?start=${log.dataset.end}`);
  if (!job) return false;
  const atEnd = log.scrollTop + log.clientHeight >= log.scrollHeight - 8;
  log.append(job.log);
  log.dataset.end = job.end;
  if (atEnd) log.scrollTop = log.scrollHeight;
  show(place, job);
  if (job.over && !job.log && "runs" in place.dataset) location.reload();
  return Boolean(job.log) || !job.over;
}

async function refresh() {
  let more = false;
  try {
    const running = [...document.querySelectorAll("[data-runs]")];
    if (document.hidden) more = true;
    else if (log) more = await follow(document.querySelector("[data-job]"));
    else if (running.length) {
      const found = await get("/admin/api/jobs");
      for (const place of running) {
        const job = found?.jobs.find((one) => String(one.number) === place.dataset.job);
        if (job) show(place, job);
        if (job?.over) delete place.dataset.runs;
      }
      more = document.querySelector("[data-runs]") !== null;
    }
  } catch { more = true; }
  if (more) setTimeout(refresh, EVERY_MS);
}

refresh();
