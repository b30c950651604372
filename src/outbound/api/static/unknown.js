// The unknown queue: what nobody knows, why, what was tried, and buttons to decide.

import { h, foreign, keyed, notice, phone, setHidden, setText, table, visible } from "./dom.js";
import { serverNow } from "./api.js";
import { decideAll, decideOne, unknownAttempt, youngFor } from "./decide.js";
import { listPath, pagerOf } from "./runs.js";
import { trail } from "./calls.js";
import { ago, count, duration, pill, time } from "./words.js";

const WHY = "Nobody knows whether the carrier took these calls: no clear answer came to our request, and no word since. They are looked up again and again, and never dialled again by themselves unless the run’s author asked for it. Whoever knows better may decide.";

export function unknownPage(context) {
  return context.params.length ? queue(context) : runs(context);
}

function runs(context) {
  const body = h("tbody");
  const empty = h("p", { class: "empty", hidden: true }, "Nothing is unknown. Every call’s fate is known.");
  const rest = h("p", { class: "muted small", hidden: true }, "Unknown calls of runs older than the newest 500 are not listed here.");
  context.poll("/runs?limit=500", (page) => {
    const some = page.items.filter((run) => run.unknown);
    keyed(body, some, (run) => run.run_id, (run) => h("tr", {}, h("td", {}, h("a", { href: `#/runs/${run.run_id}/unknown` }, foreign(run.name || "(no name)", { class: "cut" })), h("div", { class: "muted small id" }, run.run_id)),
      h("td", { class: "right number live attention" }), h("td"), h("td", {}, time(run.created_at))), (row, run) => {
      setText(row.cells[1], count(run.unknown));
      if (row.cells[2].dataset.is !== run.status) {
        row.cells[2].dataset.is = run.status;
        row.cells[2].replaceChildren(pill(run.status));
      }
    });
    setHidden(empty, some.length > 0);
    setHidden(rest, !page.next_cursor);
  }, { every: 2000 });
  return h("section", {}, h("h1", {}, "Unknown calls"), h("p", { class: "muted" }, WHY),
    table(["Run", ">Unknown", "Status", "Created"], body), empty, rest);
}

function queue(context) {
  const [id] = context.params;
  const body = h("tbody");
  const empty = h("p", { class: "empty", hidden: true }, "Nothing of this run is unknown.");
  const pager = pagerOf(context);
  // Disabled until the count is there: "nothing is unknown" would be a guess.
  const all = h("button", { type: "button", class: "danger", disabled: true, onclick: () => total ? decideAll(id, total) : notice("Nothing is unknown.", "bad") }, "Decide all…");
  let total = 0;
  const counted = h("span", { class: "count live" });
  context.poll(`/runs/${encodeURIComponent(id)}`, (run) => {
    total = run.unknown;
    all.disabled = false;
    setText(counted, count(total));
  }, { onGone: context.gone });
  context.poll(listPath(`/runs/${encodeURIComponent(id)}/calls`, new URLSearchParams([...context.query, ["state", "unknown"]]), 50), (page) => {
    keyed(body, page.items, (call) => call.call_id, (call) => makeRow(context, id, call), updateRow, { mayRemove: false });
    setHidden(empty, page.items.length > 0);
    pager.update(page.next_cursor);
  });
  return h("section", {}, trail(id), h("div", { class: "head" }, h("h1", {}, "Unknown calls "), counted, context.mayOperate ? h("div", { class: "actions" }, all) : null),
    h("p", { class: "muted" }, WHY), context.mayOperate ? null : h("p", { class: "muted small" }, "Your key has the role viewer: it may look, and decide nothing."),
    table(["Lead", "Phone", "Unknown for", "Why", "What was tried", "Carrier’s id", "Decision"], body, "queue"), empty, pager.element);
}

function makeRow(context, run, call) {
  const row = h("tr", {}, h("td", {}, h("a", { href: `#/runs/${encodeURIComponent(run)}/calls/${call.call_id}` }, foreign(call.lead_id, { class: "cut" }))),
    h("td", { class: "nowrap" }, phone(call.phone)), h("td", { class: "nowrap live" }), h("td"), h("td", { class: "live" }), h("td", { class: "id" }), h("td", { class: "right" }));
  if (context.mayOperate) row.cells[6].append(h("button", { type: "button", onclick: () => decideOne(run, row.call) }, "Decide…"));
  return row;
}

function updateRow(row, call) {
  row.call = call;
  row.classList.remove("gone");
  const attempt = unknownAttempt(call);
  const young = youngFor(attempt);
  setText(row.cells[2], attempt.unknown_at ? ago(attempt.unknown_at) : "");
  setText(row.cells[3], visible(attempt.error ?? "no word from the carrier"));
  setText(row.cells[4], [
    attempt.empty_lookups ? `${count(attempt.empty_lookups)} look-ups found nothing` : "no look-up was answered yet",
    attempt.next_lookup_at ? `next in ${duration((Date.parse(attempt.next_lookup_at) - serverNow()) / 1000)}` : "",
    young ? `may still ring for ${duration(young / 1000)}` : "",
  ].filter(Boolean).join("; "));
  setText(row.cells[5], attempt.carrier_call_id ?? "–");
}
