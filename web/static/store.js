// Conversations in this browser's IndexedDB; in memory where the browser has none (private windows of some).

const STORE = "conversations";

/** {all, put, remove, clear, lasting}: each returns a promise. */
export async function open() {
  try {
    return lasting(await asked(indexedDB.open("appliance-chat", 1), (db) => db.createObjectStore(STORE, { keyPath: "id" })));
  } catch {
    const kept = new Map();
    return {
      lasting: false,
      all: async () => [...kept.values()],
      put: async (one) => void kept.set(one.id, structuredClone(one)),
      remove: async (id) => void kept.delete(id),
      clear: async () => kept.clear(),
    };
  }
}

function lasting(db) {
  const act = (mode, work) => new Promise((resolve, reject) => {
    const doing = db.transaction(STORE, mode);
    const request = work(doing.objectStore(STORE));
    doing.oncomplete = () => resolve(request.result);
    doing.onabort = () => reject(doing.error ?? new Error("aborted")); // a disk that is full shows here
  });
  return {
    lasting: true,
    all: () => act("readonly", (store) => store.getAll()),
    put: (one) => act("readwrite", (store) => store.put(one)),
    remove: (id) => act("readwrite", (store) => store.delete(id)),
    clear: () => act("readwrite", (store) => store.clear()),
  };
}

function asked(request, upgrade) {
  return new Promise((resolve, reject) => {
    if (upgrade) request.onupgradeneeded = () => upgrade(request.result);
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
    request.onblocked = () => reject(new Error("blocked"));
  });
}

/** The text of a file with these conversations. */
export function packed(conversations) {
  return JSON.stringify({ format: "appliance-chat", version: 1, conversations }, null, 1);
}

/** The conversations in such a text; throws an Error that says what is wrong with it. */
export function unpacked(text) {
  let found;
  try { found = JSON.parse(text); } catch { throw new Error("This file is not JSON. Choose one that was exported here."); }
  if (found?.format !== "appliance-chat" || !Array.isArray(found.conversations)) throw new Error("This file holds no conversations. Choose one that was exported here.");
  const text_ = (value) => typeof value === "string";
  const whole = found.conversations.every((one) => text_(one?.id) && text_(one.title) && Array.isArray(one.messages)
    && one.messages.every((said) => ["user", "assistant"].includes(said?.role) && text_(said.content)));
  if (!whole) throw new Error("A conversation in this file is damaged; nothing was imported.");
  return found.conversations;
}
