// The audit log: verified at a click.

import { send, told } from "./forms.js";

const form = document.getElementById("verify");

form.addEventListener("submit", async (event) => {
  event.preventDefault();
  told("The whole log is read …");
  try {
    const { good, entries, fault, head } = await send(form);
    told(good ? `All ${entries} entries are as they were written. Head: ${head}` : `Entry ${fault.number}: ${fault.why}. ${entries} entries were looked at.`, !good);
  } catch (error) { told(error.message, true); }
  document.getElementById("told").scrollIntoView({ block: "center" });
});
