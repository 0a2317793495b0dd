// The chat page: conversations on the left, the chosen one in the middle, its options above.

import { Failure, chat, feedback, key, models } from "./api.js";
import { update } from "./markdown.js";
import { open, packed, unpacked } from "./store.js";

const $ = (id) => document.getElementById(id);
const PRESETS = { balanced: {}, precise: { temperature: 0 }, creative: { temperature: 1, top_p: 0.95 } };
const NUMBERS = ["temperature", "top_p", "max_tokens"];
const EXAMPLES = ["What can you do?", "How do I add a model?", "How do I make a backup?"];
const SURE_MS = 4000;
const NEAR_END_PX = 80;
const TOLD_MS = 4000;

let store;
let all = [];
let now = null; // the conversation that is shown
const gone = new WeakSet(); // what was deleted is not kept again by an answer that ends later
let running = null; // {abort, said, conversation} while an answer is written
let pending = 0; // the timer of a question that waits for the service

const newId = () => Array.from(crypto.getRandomValues(new Uint8Array(8)), (byte) => byte.toString(16).padStart(2, "0")).join("");

function node(tag, text = "", more = {}) {
  const made = Object.assign(document.createElement(tag), more);
  if (text) made.textContent = text;
  return made;
}

function say(text, problem = false) {
  if ($("status").textContent !== text) $("status").textContent = text; // each change is read out
  $("status").classList.toggle("problem", problem);
}

/** What throws away something happens at the second click; the first one asks. */
function sure(button, act) {
  const label = button.textContent;
  const name = button.getAttribute("aria-label");
  let timer = 0;
  const back = () => { clearTimeout(timer); timer = 0; button.textContent = label; if (name) button.setAttribute("aria-label", name); };
  button.addEventListener("click", () => {
    if (timer) { back(); act(); return; }
    button.textContent = "Really? Click again";
    button.removeAttribute("aria-label");
    timer = setTimeout(back, SURE_MS);
  });
}

// -- conversations ---------------------------------------------------------------------------------

function started() {
  return { id: newId(), title: "", updated: Date.now(), system: "", options: { preset: "balanced" }, messages: [] };
}

async function keep(conversation) {
  conversation.updated = Date.now();
  if (gone.has(conversation)) return;
  if (!all.includes(conversation)) all.unshift(conversation);
  try { await store.put(conversation); } catch { say("This browser has no room left: the conversation is not kept. Export it, and delete some.", true); }
  list();
}

function list() {
  all.sort((a, b) => b.updated - a.updated);
  $("list").replaceChildren(...all.map((one) => {
    const item = node("li");
    const choose = node("button", one.title || "New conversation", { type: "button" });
    if (one === now) choose.setAttribute("aria-current", "true");
    choose.addEventListener("click", () => { show(one); menu(false); $("question").focus(); });
    const drop = node("button", "✕", { type: "button", className: "plain" });
    drop.setAttribute("aria-label", `Delete ${one.title || "this conversation"}`);
    sure(drop, () => remove(one));
    item.append(choose, drop);
    return item;
  }));
}

async function remove(one) {
  gone.add(one);
  all = all.filter((other) => other !== one);
  if (running?.conversation === one) running.abort.abort();
  await store.remove(one.id);
  if (one === now) show(all[0] ?? started());
  else list();
  $("question").focus();
}

function show(conversation) {
  now = conversation;
  $("log").replaceChildren();
  if (!now.messages.length) $("log").append(empty());
  for (const said of now.messages) $("log").append(drawn(said));
  $("system").value = now.system ?? "";
  $("preset").value = now.options?.preset ?? "balanced";
  for (const name of NUMBERS) $(name).value = now.options?.[name] ?? "";
  $("similar").checked = now.options?.similar ?? true;
  if (now.model && [...$("model").options].some((option) => option.value === now.model)) $("model").value = now.model;
  list();
  buttons();
  $("log").scrollTop = $("log").scrollHeight;
}

function empty() {
  const box = node("div", "", { className: "empty" });
  box.append(node("p", "What you ask is answered on this box and leaves it for nowhere."));
  for (const example of EXAMPLES) {
    const button = node("button", example, { type: "button" });
    button.addEventListener("click", () => ask(example));
    box.append(button);
  }
  return box;
}

// -- messages --------------------------------------------------------------------------------------

function drawn(said) {
  const box = node("article", "", { className: `said ${said.role}` });
  box.append(node("h2", said.role === "user" ? "You" : said.model || "Answer"), node("div", "", { className: "text" }), node("div", "", { className: "foot" }));
  box.said = said;
  refresh(box);
  return box;
}

function refresh(box) {
  const { said } = box;
  const text = box.querySelector(".text");
  if (said.role === "user") text.textContent = said.content;
  else update(text, said.content);
  if (running?.said === said) return;
  const foot = box.querySelector(".foot");
  const button = (label, act) => { const made = node("button", label, { type: "button" }); made.addEventListener("click", act); return made; };
  foot.replaceChildren();
  if (said.role === "user") { foot.append(button("Edit", () => edit(box))); return; }
  if (said.error) foot.append(node("span", said.error, { className: "problem" }));
  if (said.finish === "length") foot.append(node("span", "Cut at the longest answer that was allowed."));
  if (said.cache) foot.append(node("span", badge(said.cache), { className: "badge" }));
  else if (said.speed) foot.append(node("span", said.speed));
  if (said.content) foot.append(button("Copy", (event) => copy(said.content, event.target)));
  const last = now.messages.at(-1) === said;
  if (last) foot.append(said.cache ? button("Answer anew", () => again(true)) : button(said.error ? "Try again" : "Regenerate", () => again(!said.error)));
  if (said.cache?.similar && said.answer && !said.verdict) {
    for (const [label, name, verdict] of [["👍", "This answers my question", "right"], ["👎", "This answers another question", "wrong"]]) {
      const thumb = button(label, () => judge(box, verdict));
      thumb.setAttribute("aria-label", name);
      foot.append(thumb);
    }
  }
  if (said.verdict) foot.append(node("span", said.verdict === "right" ? "You found it right." : "You found it wrong."));
}

function badge({ tier, age, by, on }) {
  if (by) return `reviewed by ${by} on ${on}`;
  const ago = age < 90 ? `${age} s` : age < 5400 ? `${Math.round(age / 60)} min` : age < 129600 ? `${Math.round(age / 3600)} h` : `${Math.round(age / 86400)} days`;
  return `${tier === "semantic" ? "from memory, to a similar question" : "from memory"}, ${ago} old`;
}

async function judge(box, verdict) {
  const conversation = now;
  try {
    await feedback(box.said.answer, verdict);
    box.said.verdict = verdict;
    refresh(box);
    keep(conversation);
  } catch (error) { say(error.message, true); }
}

async function copy(text, button) {
  if (navigator.clipboard) await navigator.clipboard.writeText(text);
  else { // browsers have no clipboard for pages without TLS
    const area = node("textarea", "", { value: text });
    document.body.append(area);
    area.select();
    document.execCommand("copy");
    area.remove();
    button.focus();
  }
  const label = button.textContent;
  button.textContent = "Copied";
  setTimeout(() => { button.textContent = label; }, 1500);
}

function edit(box) {
  if (running) { say("An answer is being written. Stop it first."); return; }
  clearTimeout(pending);
  const form = node("form", "", { className: "edit" });
  const area = node("textarea", "", { value: box.said.content, rows: Math.min(12, box.said.content.split("\n").length + 1) });
  area.setAttribute("aria-label", "The question, changed");
  form.append(area, node("button", "Send", { className: "main" }), node("button", "Leave it", { type: "button" }));
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    if (!area.value.trim()) return;
    if (running) { say("An answer is being written. Stop it first."); return; }
    now.messages.length = now.messages.indexOf(box.said);
    show(now);
    ask(area.value);
  });
  const close = () => { form.replaceWith(box); box.querySelector("button").focus(); };
  form.lastChild.addEventListener("click", close);
  area.addEventListener("keydown", (event) => { if (event.key === "Escape") close(); });
  box.replaceWith(form);
  area.focus();
}

// -- asking ----------------------------------------------------------------------------------------

function ask(question) {
  if (running || !question.trim()) return;
  $("log").querySelector(".empty")?.remove();
  const said = { role: "user", content: question };
  now.messages.push(said);
  now.title ||= question.trim().split("\n")[0].slice(0, 60);
  const box = drawn(said);
  $("log").append(box);
  $("log").scrollTop = $("log").scrollHeight;
  answer(false);
}

/** Ask the last question again. */
function again(fresh) {
  if (running) return;
  now.messages.pop();
  $("log").lastChild.remove();
  answer(fresh);
}

function body(conversation, model) {
  const { options, system } = conversation;
  // A question whose answer failed goes with it: some models take no two questions in a row.
  const unanswered = (said, at, all_) => said.role === "user" && all_[at + 1]?.error && !all_[at + 1].content;
  const messages = conversation.messages
    .filter((said, at, all_) => !unanswered(said, at, all_) && (!said.error || said.content))
    .map(({ role, content }) => ({ role, content }));
  const chosen = options.preset === "own" ? {} : { ...PRESETS[options.preset] };
  for (const name of options.preset === "own" ? NUMBERS : ["max_tokens"]) if (options[name]) chosen[name] = Number(options[name]);
  if (options.preset === "own" && options.temperature === "0") chosen.temperature = 0;
  if (options.similar === false) chosen.cache = { similar: false };
  return { model, messages: system ? [{ role: "system", content: system }, ...messages] : messages, ...chosen };
}

async function answer(fresh) {
  clearTimeout(pending);
  const conversation = now;
  const model = $("model").value;
  const request = body(conversation, model);
  const said = { role: "assistant", content: "", model };
  const abort = new AbortController();
  running = { abort, said, conversation };
  conversation.model = model;
  conversation.messages.push(said);
  $("log").append(drawn(said));
  buttons();
  $("question").focus();
  keep(conversation);
  say("Waiting for the answer …");
  const began = performance.now();
  let first = 0;
  let asked = 0;
  let told = 0;
  const paint = () => {
    asked = 0;
    const log = $("log");
    const box = [...log.children].find((other) => other.said === said);
    if (!box) return; // another conversation is shown
    const follow = log.scrollHeight - log.scrollTop - log.clientHeight < NEAR_END_PX;
    update(box.querySelector(".text"), said.content);
    if (follow) log.scrollTop = log.scrollHeight;
  };
  const heard = ({ cache, text, waiting }) => {
    if (cache) said.cache = cache;
    if (waiting && !first && performance.now() - told > TOLD_MS) { told = performance.now(); say(waiting === "keep-alive" ? "Reading the question …" : `${waiting[0].toUpperCase()}${waiting.slice(1)}.`); }
    if (!text) return;
    if (!first) { first = performance.now(); say("Answering …"); }
    said.content += text;
    asked ||= requestAnimationFrame(paint);
  };
  let retry = 0;
  try {
    const done = await chat(request, { signal: abort.signal, fresh, heard });
    const tokens = done.usage?.completion_tokens ?? 0;
    const rate = tokens > 1 ? (tokens - 1) / ((performance.now() - first) / 1000) : 0;
    Object.assign(said, { answer: done.id, finish: done.finish });
    if (!said.cache && first) said.speed = `first token after ${((first - began) / 1000).toFixed(1)} s, ${rate ? `${rate.toFixed(rate < 10 ? 1 : 0)} tokens/s` : `${tokens} token`}`;
    say("Answered.");
  } catch (error) {
    if (error.name === "AbortError") { said.error = "Stopped."; say("Stopped."); }
    else {
      said.error = error.message;
      say(error instanceof Failure ? error.message : "Something went wrong in this page.", true);
      if (error.status === 401) askForKey();
      if (error.code === "model_loading" && !said.content) retry = Math.max(1, error.retryAfter);
      if (!(error instanceof Failure)) console.error(error);
    }
  }
  cancelAnimationFrame(asked);
  running = null;
  if (conversation === now) { paint(); for (const other of [...$("log").querySelectorAll(".said")].slice(-3)) refresh(other); }
  buttons();
  await keep(conversation);
  if (retry && conversation === now) wait(retry, conversation);
}

/** The model is loading: ask again by itself, unless somebody does something else. */
function wait(seconds, conversation) {
  say(`The model is loading; asking again in ${seconds} s.`);
  clearTimeout(pending);
  pending = setTimeout(() => { if (now === conversation && !running && now.messages.at(-1)?.error) again(false); }, seconds * 1000);
}

function askForKey() {
  $("key-form").hidden = false;
  $("key").focus();
}

function buttons() {
  $("send").disabled = Boolean(running);
  $("send").hidden = Boolean(running);
  $("stop").hidden = !running;
}

// -- the rest of the page --------------------------------------------------------------------------

async function fill() {
  try {
    const found = await models();
    const chosen = $("model").value || now?.model;
    $("model").replaceChildren(...found.map((model) => node("option", model.id, { value: model.id })));
    if (found.some((model) => model.id === chosen)) $("model").value = chosen;
    $("key-form").hidden = true;
    say(found.length ? "" : "This service has no model that can chat. Your administrator can add one.", !found.length);
  } catch (error) {
    say(error.message, true);
    if (error.status === 401) askForKey();
    else setTimeout(fill, 5000);
  }
}

function menu(open_) {
  $("side").classList.toggle("open", open_);
  $("toggle-list").setAttribute("aria-expanded", String(open_));
}

function options() {
  const chosen = { preset: $("preset").value, similar: $("similar").checked };
  for (const name of NUMBERS) if ($(name).value !== "" && $(name).checkValidity()) chosen[name] = $(name).value;
  now.options = chosen;
  now.system = $("system").value;
  if (now.messages.length) keep(now);
}

function grow() {
  const area = $("question");
  area.style.height = "auto";
  area.style.height = `${area.scrollHeight + 2}px`;
}

function send() {
  const question = $("question").value;
  if (running || !question.trim()) return;
  $("question").value = "";
  grow();
  ask(question);
}

store = await open();
all = (await store.all()).sort((a, b) => b.updated - a.updated);

$("ask").addEventListener("submit", (event) => { event.preventDefault(); send(); });
$("question").addEventListener("input", grow);
$("question").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) { event.preventDefault(); send(); }
});
document.addEventListener("keydown", (event) => { if (event.key === "Escape") { running?.abort.abort(); menu(false); } });
$("stop").addEventListener("click", () => running?.abort.abort());
$("log").addEventListener("click", (event) => {
  if (event.target.dataset?.copy !== undefined) copy(event.target.previousSibling.textContent, event.target);
});
$("new").addEventListener("click", () => { show(started()); menu(false); $("question").focus(); });
$("toggle-list").addEventListener("click", () => menu(!$("side").classList.contains("open")));
$("toggle-options").addEventListener("click", () => {
  $("options").hidden = !$("options").hidden;
  $("toggle-options").setAttribute("aria-expanded", String(!$("options").hidden));
});
$("options").addEventListener("submit", (event) => event.preventDefault());
$("options").addEventListener("input", (event) => {
  if (["temperature", "top_p"].includes(event.target.id)) $("preset").value = "own";
  options();
});
$("preset").addEventListener("change", () => {
  if ($("preset").value !== "own") for (const name of ["temperature", "top_p"]) $(name).value = PRESETS[$("preset").value][name] ?? "";
  options();
});
$("key-form").addEventListener("submit", (event) => { event.preventDefault(); key.keep($("key").value.trim()); $("key").value = ""; fill(); });
$("export").addEventListener("click", () => {
  const link = node("a", "", { href: URL.createObjectURL(new Blob([packed(all)], { type: "application/json" })), download: "conversations.json" });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60000);
});
$("import").addEventListener("click", () => $("file").click());
$("file").addEventListener("change", async () => {
  try {
    const found = unpacked(await $("file").files[0].text());
    const known = new Set(all.map((one) => one.id));
    for (const one of found) {
      const kept = { ...started(), ...one, id: known.has(one.id) ? newId() : one.id };
      all.push(kept);
      await store.put(kept);
    }
    list();
    say(`${found.length} conversation${found.length === 1 ? "" : "s"} imported.`);
  } catch (error) { say(error.message, true); }
  $("file").value = "";
});
sure($("clear"), async () => {
  for (const one of all) gone.add(one);
  all = [];
  running?.abort.abort();
  await store.clear();
  show(started());
  say("All conversations were deleted.");
});

show(all[0] ?? started());
if (!store.lasting) say("This browser keeps nothing here: conversations are gone when the page is closed.");
await fill();
