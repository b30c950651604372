// All runs, newest first: how far each is, by its own numbers.

import { foreign, h, keyed, setHidden, setText, table } from "./dom.js";
import { PARTS, RUN_STATUSES, count, pill, time, word } from "./words.js";

const LIMIT = 50;

export function runsPage(context) {
  const filters = filterForm(context, "runs", { status: ["any status", RUN_STATUSES] }, "Name or id");
  const body = h("tbody");
  const empty = h("p", { class: "empty", hidden: true });
  const fresh = h("button", { type: "button", class: "link", hidden: true });
  const pager = pagerOf(context);
  let known = null;
  const poller = context.poll(listPath("/runs", context.query, LIMIT), (page) => {
    const newcomers = known === null ? [] : page.items.filter((run) => !known.has(run.run_id));
    known ??= new Set(page.items.map((run) => run.run_id));
    // New runs would push the rest away from under the pointer: they wait until asked for.
    keyed(body, page.items.filter((run) => known.has(run.run_id)), (run) => run.run_id, makeRow, updateRow, { mayRemove: false });
    setText(fresh, `${newcomers.length} new: show`);
    setHidden(fresh, !newcomers.length);
    setHidden(empty, known.size > 0);
    setText(empty, context.query.size ? "No run fits." : "No runs yet. Start with “New run”.");
    pager.update(page.next_cursor);
  });
  fresh.addEventListener("click", () => {
    known = null;
    body.rowsByKey?.clear();
    body.replaceChildren();
    poller.onData(poller.body, poller.asOf);
  });
  return h("section", {}, h("div", { class: "head" }, h("h1", {}, "Runs"), fresh, filters),
    table(["Run", "Status", "Progress", ">Done", ">Unknown", "Created"], body, "runs"), empty, pager.element);
}

function makeRow(run) {
  const row = h("tr", {},
    h("td", {}, h("a", { href: `#/runs/${run.run_id}` }, foreign(run.name || "(no name)", { class: "cut" })), h("div", { class: "muted small id" }, run.run_id)),
    h("td"), h("td", { class: "wide" }, bar()), h("td", { class: "right number nowrap live" }), h("td", { class: "right number live" }),
    h("td", { class: "nowrap" }, time(run.created_at)));
  return row;
}

function updateRow(row, run) {
  row.classList.remove("gone");
  const [, status, progress, done, unknown] = row.cells;
  const shown = run.cancel_requested && !run.ended_at ? "cancelling" : run.status;
  if (status.dataset.is !== shown) {
    status.dataset.is = shown;
    status.replaceChildren(pill(shown));
  }
  updateBar(progress.firstChild, run);
  setText(done, `${count(run.total_leads - run.queued - run.in_progress - run.unknown)} / ${count(run.total_leads)}`);
  setText(unknown, run.unknown ? count(run.unknown) : "");
  unknown.classList.toggle("attention", run.unknown > 0);
}

export function bar() {
  return h("div", { class: "progress live", role: "img" }, ...PARTS.map((part) => h("span", { class: part })));
}

export function updateBar(element, run) {
  PARTS.forEach((part, index) => { element.children[index].style.flexGrow = run[part]; });
  const words = PARTS.filter((part) => run[part]).map((part) => `${count(run[part])} ${word(part)}`).join(", ");
  if (element.title !== words) {
    element.title = words;
    element.setAttribute("aria-label", words);
  }
}

// --- shared by all lists ------------------------------------------------------------------------

export function listPath(path, query, limit) {
  const asked = new URLSearchParams({ limit });
  for (const name of ["status", "state", "outcome", "q", "cursor"]) if (query.get(name)) asked.set(name, query.get(name));
  return `${path}?${asked}`;
}

// Filters live in the address: they can be sent to somebody, and the back button takes them back.
export function filterForm(context, path, selects, searched) {
  const fields = Object.entries(selects).map(([name, [any, words]]) => h("select", { name, "aria-label": name },
    h("option", { value: "" }, any), ...words.map((one) => h("option", { value: one, selected: context.query.get(name) === one }, word(one)))));
  const search = h("input", { type: "search", name: "q", placeholder: searched, "aria-label": searched, maxlength: 200, value: context.query.get("q") ?? "" });
  const apply = (event) => {
    event.preventDefault();
    const wanted = new URLSearchParams();
    for (const [name, value] of new FormData(form)) if (value.trim()) wanted.set(name, value.trim());
    location.hash = `#/${path}${wanted.size ? `?${wanted}` : ""}`;
  };
  const form = h("form", { class: "filters", role: "search", onsubmit: apply }, ...fields, search, h("button", { type: "submit" }, "Search"));
  for (const field of fields) field.addEventListener("change", apply);
  return form;
}

export function pagerOf(context) {
  const next = h("a", { class: "button", hidden: true }, "Older →");
  const first = h("a", { class: "button", hidden: !context.query.get("cursor") }, "← Newest");
  const to = (cursor) => {
    const query = new URLSearchParams(context.query);
    if (cursor) query.set("cursor", cursor);
    else query.delete("cursor");
    const path = location.hash.split("?")[0] || "#/runs";
    return `${path}${query.size ? `?${query}` : ""}`;
  };
  first.href = to(null);
  return {
    element: h("div", { class: "pager" }, first, next),
    update(cursor) {
      setHidden(next, !cursor);
      if (cursor && next.getAttribute("href") !== to(cursor)) next.href = to(cursor);
    },
  };
}
