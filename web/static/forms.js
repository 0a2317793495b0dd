// Forms of the admin pages: what is in them goes to the API as JSON; the answer is told, and the page shows how things are then.

const SURE_MS = 4000;

/** Sends a form's fields; resolves to the API's answer, throws an Error in words. */
export async function send(form, more = {}) {
  const body = {};
  for (const [name, value] of new FormData(form)) body[name] = value;
  for (const field of form.querySelectorAll("input[type=number]")) body[field.name] = field.value === "" ? null : Number(field.value);
  let response;
  try {
    response = await fetch(form.dataset.api, { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify({ ...body, ...more }) });
  } catch { throw new Error("The box cannot be reached. Nothing was changed."); }
  if (response.status === 401) location.reload();
  const found = await response.json().catch(() => null);
  if (!response.ok) throw new Error(found?.error?.message ?? `The service answered ${response.status}.`);
  return found;
}

/** What cannot be taken back happens at the second click; true at that one. */
export function sure(button) {
  if (button.dataset.asked) { delete button.dataset.asked; return true; }
  const label = button.textContent;
  const name = button.getAttribute("aria-label");
  button.removeAttribute("aria-label");
  button.dataset.asked = "1";
  button.textContent = "Really? Click again";
  setTimeout(() => { delete button.dataset.asked; button.textContent = label; if (name) button.setAttribute("aria-label", name); }, SURE_MS);
  return false;
}

/** A sentence that outlives the reload. */
export function told(text, problem = false) {
  const place = document.getElementById("told");
  place.textContent = text;
  place.classList.toggle("problem", problem);
}

/** Lets all forms with data-api, but those that `apart` names, work; told says how it went. */
export function wire(apart = "") {
  const before = sessionStorage.getItem("told");
  if (before) { sessionStorage.removeItem("told"); told(before); }
  for (const form of document.querySelectorAll("form[data-api]")) {
    if (apart && form.matches(apart)) continue;
    form.addEventListener("submit", async (event) => {
      event.preventDefault();
      const button = event.submitter;
      if (button?.dataset.sure !== undefined && !sure(button)) return;
      try {
        await send(form, button?.name ? { [button.name]: button.value } : {});
        sessionStorage.setItem("told", form.dataset.told ?? "Done.");
        location.reload();
      } catch (error) { fail(error); }
    });
  }
}

/** Lets the forms with data-job work: the page of the job opens when it begins. */
export function wireJobs() {
  for (const form of document.querySelectorAll("form[data-job]")) {
    form.addEventListener("submit", async (event) => {
      event.preventDefault();
      try {
        const job = await send(form);
        location.href = `/admin/jobs/${job.number}`;
      } catch (error) { fail(error); }
    });
  }
}

/** Tells an error where it is seen. */
export function fail(error) {
  told(error.message, true);
  document.getElementById("told").scrollIntoView({ block: "center" });
}
