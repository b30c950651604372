// What the API's words mean, and times as the person at this screen reads them.

import { h, visible } from "./dom.js";
import { serverNow } from "./api.js";

export const PARTS = ["completed", "in_progress", "queued", "unknown", "failed", "cancelled"];
export const OUTCOMES = ["answered", "busy", "no_answer", "failed", "cancelled"];
export const RUN_STATUSES = ["scheduled", "pending", "running", "paused", "completed", "cancelled", "expired"];

const WORDS = {
  in_progress: "in progress", no_answer: "no answer", dialing: "dialling", live: "on the phone",
  not_placed: "did not happen",
};
const WAITS = {
  retry: "for its next try",
  phone: "because another call holds this number",
  recent_call: "because another run called this number a short while ago",
  pace: "for its turn: calls per second",
  slots: "for a free line: all that are allowed are in use",
  breaker: "because the carrier refuses us; one trial call a minute",
  paused: "because the run is paused",
  start_at: "for the run's start time",
  stopped: "because all dialling is stopped",
};
const REASONS = {
  invalid_phone: "This is no valid phone number.",
  phone_mangled: "A spreadsheet destroyed this number (9.72E+11): digits are lost. Make the column text and export it again.",
  phone_needs_region: "A national number needs the account's region. Write it with + and the country code.",
  missing_phone: "The phone number is missing.",
  missing_lead_id: "The lead's id is missing.",
  invalid_lead_id: "The lead's id must have 1 to 128 characters.",
  duplicate_lead_id: "An earlier row has the same id.",
  duplicate_phone: "An earlier row has the same phone number.",
  invalid_variables: "A column's name or value cannot be used.",
  variables_too_large: "All columns together are larger than 2 KiB.",
  missing_variable: "The script needs a column that this row does not have.",
  twiml_too_long: "The script is longer than 4,000 characters with this row's values.",
  answer_url_too_long: "The answer URL becomes too long with this row's values.",
  suppressed: "This number is on the list of numbers that are never called.",
  too_many_cells: "This row has more cells than the header: a quote or separator is wrong.",
  bad_json: "This line is no JSON object.",
};

export function word(name) {
  return WORDS[name] ?? visible(name).replaceAll("_", " ");
}

export function waits(reason) {
  return reason ? WAITS[reason] ?? word(reason) : "";
}

export function reason(code) {
  return REASONS[code] ?? word(code);
}

export function count(number) {
  return Number(number).toLocaleString();
}

export function many(number, what) {
  return `${count(number)} ${what}${number === 1 ? "" : "s"}`;
}

const HOUR = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit", second: "2-digit", hourCycle: "h23" });
const DAY = new Intl.DateTimeFormat(undefined, { month: "short", day: "numeric", hour: "2-digit", minute: "2-digit", hourCycle: "h23" });
const YEAR = new Intl.DateTimeFormat(undefined, { year: "numeric", month: "short", day: "numeric", hour: "2-digit", minute: "2-digit", hourCycle: "h23" });
const FULL = new Intl.DateTimeFormat(undefined, { dateStyle: "full", timeStyle: "long", hourCycle: "h23" });

export function clock(at) {
  const date = new Date(at);
  const now = new Date(serverNow());
  if (now.toDateString() === date.toDateString()) return HOUR.format(date);
  return (now.getFullYear() === date.getFullYear() ? DAY : YEAR).format(date);
}

// A moment in the viewer's zone; the zone, and UTC, in its title.
export function time(at) {
  return at ? h("time", { datetime: at, title: `${FULL.format(new Date(at))} (${at})` }, clock(at)) : h("span", { class: "muted" }, "–");
}

export function ago(at) {
  return duration((serverNow() - Date.parse(at)) / 1000);
}

export function duration(seconds) {
  const whole = Math.max(0, Math.round(seconds));
  if (whole < 90) return `${whole} s`;
  if (whole < 5400) return `${Math.round(whole / 60)} min`;
  if (whole < 129600) return `${Math.round(whole / 3600)} h`;
  return `${Math.round(whole / 86400)} days`;
}

export function pill(status) {
  return h("span", { class: `pill ${status}` }, word(status));
}
