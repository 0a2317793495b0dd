// The settings: one form each; "Leave it to the others" takes a value out of the page's file.

import { send, told, wire } from "./forms.js";

wire(".setting");

for (const form of document.querySelectorAll(".setting")) {
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    const unset = event.submitter?.name === "unset" ? { [event.submitter.value]: null } : {};
    try {
      await send(form, unset);
      sessionStorage.setItem("told", form.dataset.told);
      location.reload();
    } catch (error) { told(error.message, true); document.getElementById("told").scrollIntoView({ block: "center" }); }
  });
}
