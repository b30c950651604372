// The calls of a run, each with why it waits; and one call with all that happened to it.

import { h, foreign, keyed, phone, setHidden, setText, table, visible } from "./dom.js";
import { serverNow } from "./api.js";
import { decideOne } from "./decide.js";
import { filterForm, listPath, pagerOf } from "./runs.js";
import { OUTCOMES, duration, pill, time, waits, word } from "./words.js";

const STATES = ["queued", "in_progress", "dialing", "live", "unknown", "completed", "failed", "cancelled"];
const LIMIT = 100;
// What an attempt's own times tell again in fewer words than the carrier's callback.
const SAME = {
  attempt_ringing: ["carrier_said_ringing"], attempt_answered: ["carrier_said_in_progress"],
  attempt_ended: OUTCOMES.map((outcome) => `carrier_said_${outcome}`),
};

export function callsPage(context) {
  const [id] = context.params;
  const path = `runs/${encodeURIComponent(id)}/calls`;
  const filters = filterForm(context, path, { state: ["any state", STATES], outcome: ["any outcome", OUTCOMES] }, "Lead, phone or call id");
  const body = h("tbody");
  const empty = h("p", { class: "empty", hidden: true }, "No call fits.");
  const pager = pagerOf(context);
  let known = null;
  const fresh = h("button", { type: "button", class: "link", hidden: true, onclick: () => {
    known = null;
    body.rowsByKey?.clear();
    body.replaceChildren();
    poller.onData(poller.body);
  } });
  const poller = context.poll(listPath(`/${path}`, context.query, LIMIT), (page) => {
    known ??= new Set(page.items.map((call) => call.call_id));
    const others = page.items.filter((call) => !known.has(call.call_id)).length;
    keyed(body, page.items.filter((call) => known.has(call.call_id)), (call) => call.call_id, (call) => makeRow(id, call), updateRow, { mayRemove: false });
    setText(fresh, `${others} more fit now: show`);
    setHidden(fresh, !others);
    setHidden(empty, page.items.length > 0 || known.size > 0);
    pager.update(page.next_cursor);
  }, { onGone: context.gone });
  return h("section", {}, trail(id), h("div", { class: "head" }, h("h1", {}, "Calls"), fresh, filters),
    table(["Lead", "Phone", "State", "Outcome", ">Attempts", "Waits", "Next try"], body), empty, pager.element);
}

function makeRow(run, call) {
  return h("tr", {}, h("td", {}, h("a", { href: `#/runs/${encodeURIComponent(run)}/calls/${call.call_id}` }, foreign(call.lead_id, { class: "cut" }))),
    h("td", { class: "nowrap" }, phone(call.phone)), h("td", { class: "live" }), h("td", { class: "live" }), h("td", { class: "right number live" }), h("td", { class: "live" }), h("td", { class: "nowrap live" }));
}

function updateRow(row, call) {
  row.classList.remove("gone");
  const [, , state, outcome, attempts, wait, next] = row.cells;
  if (state.dataset.is !== call.state) {
    state.dataset.is = call.state;
    state.replaceChildren(pill(call.state));
  }
  setText(outcome, call.outcome ? word(call.outcome) : "");
  setText(attempts, call.attempts.filter((one) => one.state !== "released").length);
  setText(wait, waits(call.waiting_for));
  const at = Date.parse(call.next_attempt_at) > serverNow() ? call.next_attempt_at : null;
  if (next.dataset.is !== String(at)) {
    next.dataset.is = String(at);
    next.replaceChildren(at ? time(at) : "");
  }
}

export function trail(run, ...more) {
  return h("p", { class: "trail" }, h("a", { href: "#/runs" }, "Runs"), " / ", h("a", { href: `#/runs/${encodeURIComponent(run)}`, class: "id" }, run), ...more);
}

export function callPage(context) {
  const [run, id] = context.params.map(encodeURIComponent);
  const head = h("div", { class: "head" });
  const content = h("div");
  let shown = "";
  context.poll(`/runs/${run}/calls/${id}`, (call) => {
    // Nothing here can be pressed or selected by accident: it is written anew when it changed,
    // but not under a selection.
    const now = JSON.stringify(call);
    if (now === shown || (shown && content.contains(document.getSelection()?.anchorNode) && !document.getSelection().isCollapsed)) return;
    shown = now;
    const decide = call.state === "unknown" && context.mayOperate
      ? h("button", { type: "button", class: "primary", onclick: () => decideOne(context.params[0], call) }, "Decide…") : null;
    if (head.dataset.is !== call.state) {
      head.dataset.is = call.state;
      head.replaceChildren(h("h1", {}, foreign(call.lead_id, { class: "cut" })), pill(call.state), ...(decide ? [h("div", { class: "actions" }, decide)] : []));
    }
    content.replaceChildren(...describe(call));
  }, { onGone: context.gone });
  return h("article", {}, trail(context.params[0], " / ", h("a", { href: `#/runs/${run}/calls` }, "calls")), head, content);
}

function describe(call) {
  const variables = Object.entries(call.variables);
  const facts = [["Phone", phone(call.phone)], ["Call id", h("span", { class: "id" }, call.call_id)], ["Outcome", call.outcome ? word(call.outcome) : "–"]];
  if (call.waiting_for) facts.push(["Waits", `${waits(call.waiting_for)}${call.next_attempt_at ? "; due " : ""}`, call.next_attempt_at ? time(call.next_attempt_at) : null]);
  return [
    h("section", { class: "card live" }, h("dl", { class: "pairs" }, ...facts.flatMap(([name, ...value]) => [h("dt", {}, name), h("dd", {}, ...value)]))),
    h("section", { class: "card live" }, h("h2", {}, "Attempts"), attemptsTable(call.attempts)),
    h("section", { class: "card live" }, h("h2", {}, "What happened"), timeline(call)),
    variables.length ? h("section", { class: "card" }, h("h2", {}, "Variables"),
      h("dl", { class: "pairs" }, ...variables.flatMap(([name, value]) => [h("dt", {}, foreign(name)), h("dd", {}, foreign(value))]))) : null,
  ].filter(Boolean);
}

function attemptsTable(attempts) {
  if (!attempts.length) return h("p", { class: "empty" }, "None yet.");
  return table([">#", "State", "Outcome", "Claimed", "Carrier’s id", ">Talked", "Worker", "Error"],
    h("tbody", {}, ...attempts.map((one) => h("tr", {}, h("td", { class: "right" }, one.number), h("td", {}, pill(one.state)), h("td", {}, one.outcome ? word(one.outcome) : ""),
      h("td", { class: "nowrap" }, time(one.claimed_at)), h("td", { class: "id" }, one.carrier_call_id ?? "–"), h("td", { class: "right nowrap" }, one.duration === null ? "" : duration(one.duration)),
      h("td", { class: "id" }, visible(one.worker_id ?? "")), h("td", {}, visible(one.error ?? ""))))));
}

export function detailsOf({ details }) {
  const told = Object.entries(details ?? {}).filter(([name, value]) => name !== "carrier_call_id" && value !== null);
  return told.map(([name, value]) => `${word(name)} ${visible(typeof value === "string" ? value : JSON.stringify(value))}`).join(", ");
}

function timeline(call) {
  const numbers = new Map(call.attempts.map((one) => [one.attempt_id, one]));
  const told = new Set(call.timeline.map((one) => `${one.attempt_id} ${one.event}`));
  const twice = (one) => one.source === "attempt" && SAME[one.event]?.some((event) => told.has(`${one.attempt_id} ${event}`));
  const entries = call.timeline.filter((one) => !twice(one)).map((one) => {
    const attempt = numbers.get(one.attempt_id);
    const details = detailsOf(one);
    const carrier = one.details?.carrier_call_id ?? (one.event === "attempt_placed" ? attempt?.carrier_call_id : null);
    return h("li", {}, h("span", { class: "when" }, time(one.at)), h("span", {}, h("strong", {}, visible(one.event).replaceAll("_", " ")), attempt ? ` · attempt ${attempt.number}` : " · the run",
      details ? h("span", { class: "muted" }, ` · ${details}`) : "", carrier ? h("span", { class: "id" }, ` ${carrier}`) : ""),
    h("span", { class: "muted small" }, [one.source === "attempt" ? "" : word(one.source), one.worker_id ?? "", one.actor ? `by ${one.actor}` : ""].filter(Boolean).map(visible).join(" · ")));
  });
  return entries.length ? h("ol", { class: "timeline" }, ...entries) : h("p", { class: "empty" }, "Nothing yet.");
}
