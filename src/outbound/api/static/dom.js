// Elements without markup: everything that people or leads wrote goes in as text, never as HTML.

const SVG = "http://www.w3.org/2000/svg";
const HIDDEN = /[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u00ad\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff]/g;
const MOST = 400;

export function h(tag, properties = {}, ...children) {
  return build(document.createElement(tag), properties, children);
}

export function svg(tag, properties = {}, ...children) {
  return build(document.createElementNS(SVG, tag), properties, children);
}

function build(element, properties, children) {
  for (const [name, value] of Object.entries(properties)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "value" || name === "checked") element[name] = value;
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return element;
}

// Characters that turn the direction of what follows, or cannot be seen, are shown by their number.
export function visible(text) {
  const shown = String(text ?? "").replace(HIDDEN, (char) => `⟦U+${char.codePointAt(0).toString(16).toUpperCase().padStart(4, "0")}⟧`);
  return shown.length > MOST ? `${shown.slice(0, MOST)}… (${shown.length.toLocaleString()} characters)` : shown;
}

// What somebody else wrote, kept from turning the text around it.
export function foreign(text, attributes = {}) {
  return h("bdi", { dir: "auto", ...attributes }, visible(text));
}

export function phone(number) {
  return h("bdi", { dir: "ltr", class: "number" }, visible(number));
}

// A table with its frame; a column that starts with > is one of numbers.
export function table(columns, body, kind = "") {
  const heads = columns.map((name) => h("th", { scope: "col", class: name.startsWith(">") && "right" }, name.replace(">", "")));
  return h("div", { class: "scroll" }, h("table", { class: kind }, h("thead", {}, h("tr", {}, ...heads)), body));
}

// Writes only what changed, so that a refresh never loses a selection.
export function setText(element, text) {
  const wanted = String(text);
  if (element.textContent !== wanted) element.textContent = wanted;
}

export function setHidden(element, hidden) {
  if (element.hidden !== hidden) element.hidden = hidden;
}

// A button that may not be pressed stays where it is, keeps the focus, and says why.
export function allow(button, allowed, why = "") {
  const wanted = allowed ? "false" : "true";
  if (button.getAttribute("aria-disabled") !== wanted) button.setAttribute("aria-disabled", wanted);
  if (button.title !== (allowed ? "" : why)) button.title = allowed ? "" : why;
}

export function isAllowed(button) {
  return button.getAttribute("aria-disabled") !== "true";
}

// Rows by key: those that stay are updated in place; only `mayRemove` lists lose rows.
export function keyed(body, items, keyOf, make, update, { mayRemove = true } = {}) {
  const rows = (body.rowsByKey ??= new Map());
  const seen = new Set();
  let before = body.firstChild;
  for (const item of items) {
    const key = String(keyOf(item));
    seen.add(key);
    let row = rows.get(key);
    if (!row) {
      row = make(item);
      rows.set(key, row);
      body.insertBefore(row, before);
    } else if (row === before) before = row.nextSibling;
    else if (mayRemove) body.insertBefore(row, before);
    update(row, item);
  }
  for (const [key, row] of rows) {
    if (seen.has(key)) continue;
    if (mayRemove) {
      row.remove();
      rows.delete(key);
    } else row.classList.add("gone");
  }
}

// Asks in a dialog of its own, which stays, with all that was typed, until `act` has done it.
export function ask({ title, body = [], action, danger = false, check = () => "", act }) {
  const error = h("p", { class: "error", role: "alert" });
  const submit = h("button", { type: "submit", class: danger ? "danger solid" : "primary" }, action);
  const form = h("form", { method: "dialog" },
    h("h2", { id: "ask-title" }, title), ...body, error,
    h("div", { class: "actions" }, h("button", { type: "button", onclick: () => dialog.close() }, "Go back"), submit));
  const dialog = h("dialog", { "aria-labelledby": "ask-title" }, form);
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    if (!isAllowed(submit)) return;
    const data = new FormData(form);
    const wrong = check(data);
    setText(error, wrong);
    if (wrong) return;
    allow(submit, false, "It is being sent.");
    try {
      await act(data);
      dialog.close();
    } catch (problem) {
      setText(error, visible(problem.words ?? problem));
      if (!dialog.open) notice(error.textContent, "bad");
    }
    allow(submit, true);
  });
  dialog.addEventListener("close", () => dialog.remove());
  document.body.append(dialog);
  dialog.showModal();
}

let hideNotice = 0;

export function notice(text, kind = "good") {
  const element = document.getElementById("notice");
  element.className = `notice ${kind}`;
  element.replaceChildren(h("span", {}, visible(text)),
    h("button", { type: "button", "aria-label": "Dismiss", onclick: () => { element.hidden = true; } }, "×"));
  element.hidden = false;
  clearTimeout(hideNotice);
  if (kind === "good") hideNotice = setTimeout(() => { element.hidden = true; }, 6000);
}

export function announce(text) {
  setText(document.getElementById("announce"), text);
}
