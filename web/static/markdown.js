// Markdown to DOM nodes. Text only ever becomes text nodes: whatever a model writes, nothing in it runs or is loaded.
// What is understood: the blocks and marks that models write (CommonMark 0.31 and GFM tables), without HTML and without images.

const FENCE = /^ {0,3}(`{3,}|~{3,})\s*([^`]*)$/;
const ITEM = /^( *)([-*+]|\d{1,9}[.)])( +)(.*)$/;
const RULE = /^ {0,3}([-*_])( *\1){2,} *$/;
const HEADING = /^ {0,3}(#{1,6}) +(.*?)( +#+)? *$/;
const TABLE_LINE = /^ *\|?( *:?-+:? *\|)+ *(:?-+:? *)?$/;
const MOST_DEEP = 8;

/** Puts `text` into `box`, touching only the blocks that changed since the last call: cheap while an answer grows. */
export function update(box, text) {
  const parts = split(text);
  const old = box.parts ?? [];
  let same = 0;
  while (same < parts.length && same < old.length && parts[same] === old[same]) same++;
  while (box.childNodes.length > same) box.lastChild.remove();
  for (const part of parts.slice(same)) box.append(block(part, 0));
  box.parts = parts;
}

/** The source of each block at the top level. */
function split(text) {
  const lines = text.replace(/\r\n?/g, "\n").split("\n");
  const parts = [];
  let now = [];
  let fence = "";
  let list = ""; // the mark of the list that is being read: "1" for all numbers
  const end = () => {
    while (now.length && !now.at(-1).trim()) now.pop();
    if (now.length) parts.push(now.join("\n"));
    now = [];
    list = "";
  };
  for (const line of lines) {
    if (fence) {
      now.push(line);
      if (line.trim().startsWith(fence) && !line.trim().slice(fence.length).replaceAll(fence[0], "")) { fence = ""; if (!list) end(); }
      continue;
    }
    const opens = line.match(list ? /^ *(`{3,}|~{3,})/ : FENCE);
    if (opens && !(list && /^\S/.test(line))) { if (!list) end(); now.push(line); fence = opens[1]; continue; }
    if (!line.trim()) { if (list) now.push(line); else end(); continue; }
    const item = !RULE.test(line) && line.match(ITEM);
    const mark = item && (/\d/.test(item[2]) ? "1" : item[2]);
    if (list && /^\S/.test(line) && (item ? mark !== list : !now.at(-1).trim())) end();
    if (item && !list) { end(); list = mark; }
    if (!list && (HEADING.test(line) || RULE.test(line))) { end(); parts.push(line); continue; }
    now.push(line);
  }
  end();
  return parts;
}

function block(source, deep) {
  const lines = source.split("\n");
  const fence = lines[0].match(FENCE);
  if (fence) return code(lines, fence);
  const heading = lines[0].match(HEADING);
  if (heading) return filled("h" + Math.min(6, heading[1].length + 2), heading[2]);
  if (RULE.test(lines[0])) return document.createElement("hr");
  if (deep < MOST_DEEP && ITEM.test(lines[0])) return listOf(lines, deep);
  if (deep < MOST_DEEP && /^ {0,3}>/.test(lines[0])) {
    const quote = document.createElement("blockquote");
    for (const part of split(lines.map((line) => line.replace(/^ {0,3}> ?/, "")).join("\n"))) quote.append(block(part, deep + 1));
    return quote;
  }
  if (lines.length > 1 && lines[0].includes("|") && TABLE_LINE.test(lines[1])) return table(lines);
  const paragraph = document.createElement("p");
  lines.forEach((line, at) => {
    if (at) paragraph.append(/( {2}|\\)$/.test(lines[at - 1]) ? document.createElement("br") : "\n");
    inline(paragraph, line.replace(/( +|\\)$/, "").trimStart());
  });
  return paragraph;
}

function code(lines, fence) {
  const closed = lines.length > 1 && lines.at(-1).trim().startsWith(fence[1]);
  const box = document.createElement("div");
  box.className = "codeblock";
  const pre = document.createElement("pre");
  pre.tabIndex = 0; // it scrolls, so the keyboard must reach it
  const inner = document.createElement("code");
  inner.textContent = lines.slice(1, closed ? -1 : undefined).join("\n");
  const copy = document.createElement("button");
  copy.type = "button";
  copy.textContent = "Copy";
  copy.dataset.copy = "";
  pre.append(inner);
  box.append(pre, copy);
  return box;
}

function listOf(lines, deep) {
  const first = lines[0].match(ITEM);
  const ordered = /\d/.test(first[2]);
  const list = document.createElement(ordered ? "ol" : "ul");
  if (ordered) list.start = parseInt(first[2], 10);
  const base = first[1].length;
  let item = null;
  let indent = 0;
  const items = [];
  for (const line of lines) {
    const found = line.match(ITEM);
    if (found && found[1].length <= base + 1) {
      indent = found[1].length + found[2].length + Math.min(found[3].length, 4);
      item = [found[4]];
      items.push(item);
    } else {
      const spaces = line.match(/^ */)[0].length;
      item.push(line.slice(Math.min(spaces, indent)));
    }
  }
  for (const source of items) {
    const li = document.createElement("li");
    const parts = split(source.join("\n"));
    parts.forEach((part, at) => {
      const node = block(part, deep + 1);
      if (at === 0 && node.tagName === "P") li.append(...node.childNodes);
      else li.append(node);
    });
    list.append(li);
  }
  return list;
}

function table(lines) {
  const cells = (line) => line.trim().replace(/^\||\|$/g, "").split(/(?<!\\)\|/).map((cell) => cell.trim().replaceAll("\\|", "|"));
  const box = document.createElement("div");
  box.className = "wide-table";
  box.tabIndex = 0;
  const made = document.createElement("table");
  const head = made.createTHead().insertRow();
  for (const cell of cells(lines[0])) {
    const th = filled("th", cell);
    th.scope = "col";
    head.append(th);
  }
  const body = made.createTBody();
  for (const line of lines.slice(2)) {
    const row = body.insertRow();
    for (const cell of cells(line).slice(0, head.cells.length)) row.append(filled("td", cell));
  }
  box.append(made);
  return box;
}

function filled(tag, text) {
  const node = document.createElement(tag);
  inline(node, text);
  return node;
}

const INLINE = new RegExp([
  /\\([!-/:-@[-`{-~])/, // 1 an escaped mark
  /(?<!`)(`+)(?!`)/, // 2 the beginning of code; its end is looked for by hand
  /\*\*(?=\S)(.+?)(?<=\S)\*\*/, // 3 strong
  /(?<!\w)__(?=\S)(.+?)(?<=\S)__(?!\w)/, // 4 strong
  /\*(?=[^\s*])(.+?)(?<=[^\s*])\*/, // 5 emphasis
  /(?<!\w)_(?=[^\s_])(.+?)(?<=[^\s_])_(?!\w)/, // 6 emphasis
  /~~(?=\S)(.+?)(?<=\S)~~/, // 7 struck
  /!?\[([^\]]*)\]\(<?([^()\s>]*(?:\([^()\s]*\))?[^()\s>]*)>?(?: +"[^"]*")?\)/, // 8, 9 link or image
  /(https?:\/\/[^\s<>"'`]*[^\s<>"'`.,;:!?)\]])/, // 10 bare address
].map((part) => part.source).join("|"), "u");
const LONGEST_INLINE = 20000; // a longer line stays plain: patterns must not be tried for ever

function inline(node, text, deep = 0) {
  while (text) {
    const found = text.length <= LONGEST_INLINE && deep < MOST_DEEP ? text.match(INLINE) : null;
    if (!found) { node.append(text); return; }
    if (found.index) node.append(text.slice(0, found.index));
    text = text.slice(found.index + found[0].length);
    const [, escaped, ticks, strong, strong2, soft, soft2, struck, label, target, bare] = found;
    if (escaped !== undefined) node.append(escaped);
    else if (ticks !== undefined) {
      const end = closing(text, ticks.length);
      if (end < 0) { node.append(ticks); continue; }
      const made = document.createElement("code");
      made.textContent = text.slice(0, end);
      text = text.slice(end + ticks.length);
      node.append(made);
    }
    else if (target !== undefined) link(node, label, target, deep);
    else if (bare !== undefined) link(node, null, bare, deep);
    else {
      const inner = strong ?? strong2 ?? soft ?? soft2 ?? struck;
      const made = document.createElement(struck !== undefined ? "s" : strong !== undefined || strong2 !== undefined ? "strong" : "em");
      inline(made, inner, deep + 1);
      node.append(made);
    }
  }
}

/** Where the next run of exactly so many backticks begins, -1 for nowhere. */
function closing(text, count) {
  for (let at = text.indexOf("`"); at >= 0; at = text.indexOf("`", at)) {
    let end = at;
    while (text[end] === "`") end++;
    if (end - at === count) return at;
    at = end;
  }
  return -1;
}

function link(node, label, target, deep) {
  if (!/^(https?:\/\/|mailto:)/i.test(target)) { node.append(label ? `${label} (${target})` : target); return; }
  const made = document.createElement("a");
  made.href = target;
  made.rel = "noopener noreferrer nofollow";
  made.target = "_blank";
  if (label) inline(made, label, deep + 1);
  else made.textContent = target;
  node.append(made);
}
