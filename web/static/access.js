// People and keys: a new key is shown once, beside a button that copies it.

import { send, sure, told, wire } from "./forms.js";

wire("#make-key, #forget");

const form = document.getElementById("make-key");

form.addEventListener("submit", async (event) => {
  event.preventDefault();
  const made = document.getElementById("made");
  try {
    const { key } = await send(form);
    const code = Object.assign(document.createElement("code"), { textContent: key, id: "key" });
    made.replaceChildren("This is the key. It is shown now and never again: ", code);
    made.hidden = false;
    form.reset();
  } catch (error) { told(error.message, true); }
});

const leaving = document.getElementById("forget");

leaving.addEventListener("submit", async (event) => {
  event.preventDefault();
  if (!sure(event.submitter)) return;
  try {
    const { removed, stays } = await send(leaving, { account: document.getElementById("forget-account").checked });
    const counts = Object.entries(removed).filter(([, count]) => count).map(([what, count]) => `${count} ${what}`);
    sessionStorage.setItem("told", [counts.length ? `Removed: ${counts.join(", ")}.` : "Nothing was kept under that name.", ...stays].join(" "));
    location.reload();
  } catch (error) { told(error.message, true); document.getElementById("told").scrollIntoView({ block: "center" }); }
});
