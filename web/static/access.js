// People and keys: a new key is shown once, beside a button that copies it.

import { send, told, wire } from "./forms.js";

wire("#make-key");

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
