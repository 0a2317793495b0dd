// The review desk: its forms, and forgetting with a look at what would go.

import { send, told, wire } from "./forms.js";

wire("#purge, #import");

const files = document.getElementById("import");

files?.addEventListener("submit", async (event) => {
  event.preventDefault();
  const file = document.getElementById("import-file").files[0];
  try {
    const { reviewed } = await send(files, { text: await file.text(), form: file.name.toLowerCase().endsWith(".csv") ? "csv" : "jsonl" });
    sessionStorage.setItem("told", `${reviewed.length} reviewed answers were taken over.`);
    location.reload();
  } catch (error) { told(error.message, true); document.getElementById("told").scrollIntoView({ block: "center" }); }
});

const purge = document.getElementById("purge");
let shown = "";

purge?.addEventListener("submit", async (event) => {
  event.preventDefault();
  const button = purge.querySelector("button");
  const would = document.getElementById("would");
  const now = JSON.stringify([...new FormData(purge)]);
  try {
    if (shown !== now) {
      const { would_remove: count, questions } = await send(purge, { preview: true });
      would.textContent = count ? `${count} answers, among them to: ${questions.join(" · ")}` : "No answer fits.";
      shown = count ? now : "";
      button.textContent = count ? `Forget ${count} answers` : "Show what would go";
      return;
    }
    const { removed } = await send(purge);
    sessionStorage.setItem("told", `${removed} answers were forgotten.`);
    location.reload();
  } catch (error) { told(error.message, true); would.textContent = error.message; }
});

purge?.addEventListener("input", () => { shown = ""; purge.querySelector("button").textContent = "Show what would go"; });
