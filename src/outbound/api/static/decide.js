// A person's word on calls that nobody knows of. What each answer does is said before it is given.

import { send, serverNow } from "./api.js";
import { ask, foreign, h, notice, phone } from "./dom.js";
import { pollAllNow } from "./poll.js";
import { OUTCOMES, count, duration, word } from "./words.js";

const YOUNG = 15 * 60_000;

export function unknownAttempt(call) {
  return call.attempts.findLast((one) => one.state === "unknown") ?? call.attempts.at(-1) ?? {};
}

export function youngFor(attempt) {
  return Math.max(0, Date.parse(attempt.claimed_at) + YOUNG - serverNow());
}

export function decideOne(run, call) {
  const attempt = unknownAttempt(call);
  ask({
    title: "What became of this call?",
    body: [h("p", {}, foreign(call.lead_id, { class: "cut" }), " · ", phone(call.phone)), ...fields({ taken: attempt.carrier_call_id, young: youngFor(attempt) })],
    action: "Decide", check: (given) => check(given, youngFor(attempt)),
    act: (given) => decide(`/runs/${encodeURIComponent(run)}/calls/${call.call_id}/resolve`, given, () => "Decided."),
  });
}

export function decideAll(run, many) {
  ask({
    title: `Decide all unknown calls of this run (${count(many)})?`,
    body: [h("p", {}, "The same answer for each of them that was claimed at least 15 minutes ago when you press the button; how many that were is told afterwards."), ...fields({ all: true })],
    action: "Decide all", danger: true, check: (given) => check(given, 0),
    act: (given) => decide(`/runs/${encodeURIComponent(run)}/resolve`, given, (answer) => `Calls decided: ${count(answer.resolved)}.`),
  });
}

function fields({ taken = null, young = 0, all = false }) {
  const choice = (value, title, text, disabled = false) => h("label", { class: "choice" },
    h("input", { type: "radio", name: "decision", value, disabled }), h("span", {}, h("strong", {}, title), h("br"), h("span", { class: "muted small" }, text)));
  return [
    h("fieldset", {}, h("legend", { class: "unseen" }, "Decision"),
      choice("placed", "It happened", "You know how it ended, from the carrier’s console or the customer. Nobody is called again."),
      h("label", { class: "inset" }, "It ended as ", h("select", { name: "outcome", "aria-label": "It ended as" }, ...OUTCOMES.map((one) => h("option", { value: one }, word(one))))),
      choice("not_placed", "It did not happen", taken ? "Not possible: the carrier has this call." : "You know that the carrier never took it. It does not count, and the lead is called again.", Boolean(taken)),
      choice("redial", "Nobody knows; call again", "It counts as an attempt, and the lead is called once more. The person may be called twice.")),
    h("label", { class: "check" }, h("input", { type: "checkbox", name: "force" }), ` Do not wait 15 minutes${young ? ` (${duration(young / 1000)} left)` : ""}`),
    h("p", { class: "muted small" }, all
      ? "A younger call may still ring. Without this, calls claimed less than 15 minutes ago are left as they are."
      : "Until 15 minutes after it was claimed the phone may still ring. “It did not happen” and “call again” are refused before, unless this is set."),
    h("label", { for: "note" }, "Note, kept in the timeline"),
    h("input", { id: "note", name: "note", maxlength: 1000, placeholder: "How you know" }),
  ];
}

function check(given, young) {
  const decision = given.get("decision");
  if (!decision) return "Choose what became of it.";
  if (decision !== "placed" && young && given.get("force") === null) return `Too early: wait ${duration(young / 1000)}, or set “Do not wait 15 minutes”.`;
  return "";
}

async function decide(path, given, words) {
  const decision = given.get("decision");
  const body = { decision, outcome: decision === "placed" ? given.get("outcome") : null, note: given.get("note").trim() || null, force: given.get("force") !== null };
  try {
    notice(words((await send("POST", path, body)).body));
  } finally {
    pollAllNow();
  }
}
