// One run, live: numbers that add up, its pace, who is on the phone, and what may be done to it.

import { send, serverNow } from "./api.js";
import { chart, note, rateNow } from "./chart.js";
import { allow, announce, ask, foreign, h, isAllowed, keyed, notice, phone, setHidden, setText, table, visible } from "./dom.js";
import { pollAllNow } from "./poll.js";
import { bar, updateBar } from "./runs.js";
import { OUTCOMES, PARTS, ago, clock, count, duration, pill, time, waits, word } from "./words.js";

const TALKING = 12;

export function runPage(context) {
  const [id] = context.params;
  const path = `/runs/${encodeURIComponent(id)}`;
  const view = build(context, id);
  let before = null;
  context.poll(path, (run, asOf) => {
    note(id, run.attempts, asOf);
    update(view, run, context);
    if (before && before !== run.status) announce(`The run is ${word(run.status)}.`);
    before = run.status;
  }, { onGone: context.gone });
  context.poll(`${path}/calls?state=in_progress&limit=${TALKING}`, (page) => updateTalking(view, page));
  return view.element;
}

function build(context, id) {
  const view = { id, name: h("h1", {}, "…"), status: h("span"), facts: h("p", { class: "muted small facts" }), bar: bar(), sum: h("span", { class: "number live" }) };
  view.waits = h("p", { class: "muted small", hidden: true });
  view.error = h("div", { class: "banner warn", hidden: true });
  view.parts = tiles(PARTS, (part) => part === "unknown" ? `#/runs/${id}/unknown` : `#/runs/${id}/calls?state=${part}`);
  view.outcomes = tiles(OUTCOMES, (outcome) => `#/runs/${id}/calls?outcome=${outcome}`);
  view.buttons = {
    pause: button("Pause", () => pause(view)), resume: button("Resume", () => change(view, "resume", {})),
    cancel: button("Cancel run", () => cancel(view), "danger"),
  };
  view.chart = chart("Calls per second, as far as this page has watched");
  view.from = h("span");
  view.peak = h("span", { class: "muted small" });
  view.pace = h("dl", { class: "pairs live" });
  view.talking = h("tbody");
  view.nobody = h("p", { class: "empty" }, "Nobody.");
  view.more = h("p", { class: "muted small", hidden: true });
  const why = context.mayOperate ? null : h("p", { class: "muted small" }, "Your key has the role viewer: it may look, and change nothing.");
  view.element = h("article", {},
    h("div", { class: "head" }, view.name, view.status,
      h("div", { class: "actions" }, ...(context.mayOperate ? Object.values(view.buttons) : []))),
    why, view.facts, view.error,
    h("section", { class: "card" }, view.bar, h("div", { class: "tiles live" }, ...view.parts.elements), h("p", { class: "muted small" }, view.sum), view.waits),
    h("div", { class: "columns" },
      h("section", { class: "card" }, h("h2", {}, "Outcomes"), h("div", { class: "tiles small live" }, ...view.outcomes.elements), view.pace),
      h("section", { class: "card" }, h("h2", {}, "Calls per second ", view.peak), h("div", { class: "live" }, view.chart.element),
        h("div", { class: "axis-x muted small" }, view.from, h("span", {}, "now")))),
    h("section", { class: "card" }, h("h2", {}, "On the phone now"),
      table(["Lead", "Phone", "State", ">Since", "Carrier’s id"], view.talking, "live"), view.nobody, view.more),
    h("p", { class: "links" }, h("a", { href: `#/runs/${id}/calls` }, "All calls"), h("a", { href: `#/runs/${id}/unknown` }, "Unknown queue"),
      h("a", { href: `/api/outbound/runs/${encodeURIComponent(id)}/calls.csv`, download: true }, "Export as CSV")));
  return view;
}

function tiles(names, href) {
  const numbers = names.map(() => h("strong", { class: "number" }, "–"));
  const elements = names.map((name, index) => h("a", { class: `tile ${name}`, href: href(name) }, numbers[index], h("span", {}, word(name))));
  return { elements, update: (values) => names.forEach((name, index) => setText(numbers[index], count(values[name]))) };
}

function button(text, onclick, kind = "") {
  return h("button", { type: "button", class: kind, "aria-disabled": "true", onclick: (event) => { if (isAllowed(event.currentTarget)) onclick(); else notice(event.currentTarget.title || "Not now.", "bad"); } }, text);
}

function update(view, run, context) {
  view.run = run;
  const name = visible(run.name || "(no name)");
  if (view.name.dataset.is !== name) {
    view.name.dataset.is = name;
    view.name.replaceChildren(foreign(run.name || "(no name)", { class: "cut" }));
  }
  const shown = run.cancel_requested && !run.ended_at ? "cancelling" : run.status;
  if (view.status.dataset.is !== shown) {
    view.status.dataset.is = shown;
    view.status.replaceChildren(pill(shown));
  }
  updateFacts(view, run);
  setHidden(view.error, !run.last_error);
  if (run.last_error) setText(view.error, `The carrier refuses our calls: ${visible(run.last_error)}. Nothing is lost: one call a minute tries whether it works again, and Resume tries at once.`);
  updateBar(view.bar, run);
  view.parts.update(run);
  view.outcomes.update(run.outcomes);
  const total = PARTS.reduce((sum, part) => sum + run[part], 0);
  setText(view.sum, `${PARTS.map((part) => count(run[part])).join(" + ")} = ${count(total)}${total === run.total_leads ? " leads" : `, but the run has ${count(run.total_leads)} leads: tell your administrator`}`);
  const { peak, span } = view.chart.draw(view.id, Date.now());
  setText(view.peak, peak ? `peak ${peak < 10 ? peak.toFixed(1) : Math.round(peak)}/s` : "");
  setText(view.from, `${duration(span / 1000)} ago`);
  askWhyItWaits(view, run);
  updatePace(view, run);
  if (!context.mayOperate) return;
  const over = run.ended_at ? `The run is ${word(run.status)}.` : run.cancel_requested ? "The run is being cancelled." : "";
  allow(view.buttons.pause, run.can_pause, over || "The run is paused already.");
  allow(view.buttons.resume, run.can_resume, over || "The run is not paused.");
  allow(view.buttons.cancel, run.can_cancel, over);
}

function updateFacts(view, run) {
  const known = [["created", run.created_at], ["starts", run.started_at ? null : run.start_at], ["started", run.started_at], ["ended", run.ended_at], ["expires", run.ended_at ? null : run.expires_at]].filter(([, at]) => at);
  const is = JSON.stringify(known);
  if (view.facts.dataset.is === is) return;
  view.facts.dataset.is = is;
  view.facts.replaceChildren(h("span", { class: "id" }, run.run_id), ...known.flatMap(([name, at]) => [` · ${name} `, time(at)]));
}

// A run that goes on and dials nothing says why: by the newest of its waiting calls.
async function askWhyItWaits(view, run) {
  const idle = run.queued && !run.in_progress && ["pending", "running"].includes(run.status);
  if (!idle) view.reason = null;
  setHidden(view.waits, !view.reason);
  if (!idle || view.asking) return;
  view.asking = true;
  try {
    const { body } = await send("GET", `/runs/${encodeURIComponent(view.id)}/calls?state=queued&limit=1`);
    view.reason = body.items[0]?.waiting_for ?? null;
    setText(view.waits, `Nothing is being dialled. The newest queued call waits ${waits(view.reason)}.`);
  } catch {
    view.reason = null; // how old the page is, and why, is said above
  } finally {
    view.asking = false;
  }
}

function updatePace(view, run) {
  const rate = rateNow(view.id);
  const since = run.started_at ? (Date.parse(run.ended_at ?? new Date(serverNow()).toISOString()) - Date.parse(run.started_at)) / 1000 : 0;
  const pairs = {
    "Calls/s now": rate === null ? "watching…" : rate.toFixed(1),
    "Calls/s since the start": since >= 1 ? (run.attempts / since).toFixed(1) : "–",
    "Allowed": `${run.calls_per_second}/s, ${count(run.concurrency)} at once`,
    "Attempts": count(run.attempts),
    "Ends": run.eta && (!view.reason || view.reason === "pace") ? `about ${clock(run.eta)}, in ${duration((Date.parse(run.eta) - serverNow()) / 1000)}` : run.ended_at ? clock(run.ended_at) : "not known",
    "Left out": `${count(run.duplicates)} double, ${count(run.rejected)} rejected`,
  };
  Object.entries(pairs).forEach(([name, value], index) => {
    if (view.pace.children.length <= index * 2) view.pace.append(h("dt", {}, name), h("dd", { class: "number" }));
    setText(view.pace.children[index * 2 + 1], value);
  });
}

function updateTalking(view, page) {
  keyed(view.talking, page.items, (call) => call.call_id, (call) => h("tr", {},
    h("td", {}, h("a", { href: `#/runs/${view.id}/calls/${call.call_id}` }, foreign(call.lead_id, { class: "cut" }))),
    h("td", {}, phone(call.phone)), h("td"), h("td", { class: "right number" }), h("td", { class: "id" })), (row, call) => {
    const attempt = call.attempts.at(-1) ?? {};
    const step = attempt.answered_at ? "talking" : attempt.ringing_at ? "ringing" : attempt.placed_at ? "with the carrier" : "being sent";
    setText(row.cells[2], step);
    setText(row.cells[3], attempt.claimed_at ? ago(attempt.answered_at ?? attempt.ringing_at ?? attempt.claimed_at) : "");
    setText(row.cells[4], attempt.carrier_call_id ?? "–");
  });
  setHidden(view.nobody, page.items.length > 0);
  setHidden(view.more, !page.next_cursor);
  setText(view.more, `The newest ${TALKING}; “in progress” above counts all.`);
}

function pause(view) {
  ask({
    title: "Pause this run?",
    body: [h("p", {}, "No new call is made until it is resumed. Calls that are going on are not touched, and a request already on its way may still arrive.")],
    action: "Pause run", act: () => change(view, "pause", {}),
  });
}

function cancel(view) {
  const { run } = view;
  ask({
    title: "Cancel this run for good?",
    body: [
      h("p", {}, `${count(run.queued)} waiting calls are never made. This cannot be taken back.`),
      h("fieldset", {}, h("legend", {}, `${count(run.in_progress)} calls are in progress`),
        h("label", { class: "check" }, h("input", { type: "radio", name: "hang_up", value: "no", checked: true }), " Let them end by themselves"),
        h("label", { class: "check" }, h("input", { type: "radio", name: "hang_up", value: "yes" }), " Hang up on them")),
    ],
    action: "Cancel run", danger: true, act: (data) => change(view, "cancel", { hang_up: data.get("hang_up") === "yes" }),
  });
}

async function change(view, verb, body) {
  Object.values(view.buttons).forEach((one) => allow(one, false, "Being done…"));
  try {
    const answer = await send("POST", `/runs/${encodeURIComponent(view.id)}/${verb}`, body);
    notice(answer.status === 202 ? "Done: no new call is made. A request already on its way is still being waited for." : { pause: "Paused.", resume: "It goes on.", cancel: "Cancelled." }[verb]);
  } finally {
    pollAllNow();
  }
}
