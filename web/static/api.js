// The service's API as the chat uses it.

/** An error the service told, or that it could not be reached (status 0). */
export class Failure extends Error {
  constructor(message, status, code = "", retryAfter = 0) {
    super(message);
    Object.assign(this, { status, code, retryAfter });
  }
}

const KEY = "appliance-key";
export const key = { read: () => localStorage.getItem(KEY) ?? "", keep: (value) => localStorage.setItem(KEY, value) };

async function call(path, options = {}) {
  const headers = { ...options.headers };
  if (key.read()) headers.Authorization = `Bearer ${key.read()}`;
  if (options.body) headers["Content-Type"] = "application/json";
  let response;
  try {
    response = await fetch(path, { ...options, headers });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Failure("The box cannot be reached. Is it switched on, and are you in its network?", 0);
  }
  if (!response.ok) throw await failure(response);
  return response;
}

async function failure(response) {
  const told = await response.json().catch(() => null);
  const message = told?.error?.message ?? `The service answered ${response.status}.`;
  return new Failure(message, response.status, told?.error?.code ?? "", Number(response.headers.get("Retry-After")) || 0);
}

/** The models that can chat. */
export async function models() {
  const found = await (await call("/v1/models")).json();
  return found.data.filter((model) => model.task === "generate");
}

/** Says whether a remembered answer was right. */
export async function feedback(id, verdict) {
  await call("/v1/cache/feedback", { method: "POST", body: JSON.stringify({ id, verdict }) });
}

/**
 * Streams an answer. `heard` gets {cache} once, then {text} and {waiting} pieces; resolves to {id, usage, finish}.
 * fresh: do not answer from memory.
 */
export async function chat(body, { signal, fresh, heard }) {
  const headers = fresh ? { "Cache-Control": "no-cache" } : {};
  const request = { ...body, stream: true, stream_options: { include_usage: true } };
  const response = await call("/v1/chat/completions", { method: "POST", body: JSON.stringify(request), headers, signal });
  heard({ cache: remembered(response.headers) });
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  const found = { id: "", usage: null, finish: "" };
  let rest = "";
  for (;;) {
    const { done, value } = await reader.read().catch((error) => {
      if (error.name === "AbortError") throw error;
      throw new Failure("The connection to the box broke. What it wrote so far is kept.", 0);
    });
    if (done) throw new Failure("The answer ended early. What was written so far is kept.", 0);
    const lines = (rest + value).split("\n");
    rest = lines.pop();
    for (const line of lines) {
      if (line === "data: [DONE]") return found;
      if (line.startsWith(": ")) heard({ waiting: line.slice(2) });
      if (!line.startsWith("data: ")) continue;
      const event = JSON.parse(line.slice(6));
      if (event.error) throw new Failure(event.error.message, 500, event.error.code);
      found.id = event.id ?? found.id;
      found.usage = event.usage ?? found.usage;
      const choice = event.choices?.[0];
      if (choice?.delta?.content) heard({ text: choice.delta.content });
      found.finish = choice?.finish_reason ?? found.finish;
    }
  }
}

function remembered(headers) {
  if (headers.get("x-cache") !== "hit") return null;
  const plain = (name) => decodeURIComponent(headers.get(name) ?? "");
  const tier = plain("x-cache-tier");
  const similar = tier === "semantic" || (tier === "reviewed" && Number(headers.get("x-cache-score")) < 1);
  return { tier, similar, age: Number(headers.get("x-cache-age")), by: plain("x-reviewed-by"), on: plain("x-reviewed-on") };
}
