// How the whole of it is: who leads, who lives, what was repaired, what holds dialling back.

import { foreign, h, keyed, setHidden, setText, table, visible } from "./dom.js";
import { detailsOf } from "./calls.js";
import { ago, count, duration, pill, time, word } from "./words.js";
import { serverNow } from "./api.js";

const KINDS = { api: "web", dramatiq_worker: "worker", reconciler: "reconciler" };

export function systemPage(context) {
  const pairs = h("dl", { class: "pairs live" });
  const processes = h("tbody");
  const breakers = h("div");
  const repairs = h("tbody");
  const none = h("p", { class: "empty", hidden: true }, "Nothing had to be repaired among the newest events.");
  const actions = h("tbody");
  context.poll("/actions?limit=20", (page) => keyed(actions, page.items, (one) => one.action_id, makeAction, () => {}), { every: 2000 });
  const draw = (system) => {
    facts(pairs, system);
    drawProcesses(processes, system);
    drawBreakers(breakers, system);
    keyed(repairs, system.repairs, (one) => `${one.at} ${one.event} ${one.call_id}`, makeRepair, () => {});
    setHidden(none, system.repairs.length > 0);
  };
  if (context.system.last()) draw(context.system.last());
  const listen = (event) => (pairs.isConnected ? draw(event.detail) : context.system.removeEventListener("data", listen));
  setTimeout(() => context.system.addEventListener("data", listen));
  return h("article", {}, h("h1", {}, "System"), h("div", { class: "columns" },
    h("section", { class: "card" }, h("h2", {}, "Health"), pairs, breakers),
    h("section", { class: "card" }, h("h2", {}, "Processes"), table(["Kind", "Process", "Connected", ">Last seen"], processes, "live"),
      h("p", { class: "muted small" }, "Those that hold connections to the database; they vanish from here as they end. An idle worker asks nothing."))),
  h("section", { class: "card" }, h("h2", {}, "Last repairs"), table(["When", "What", "Found by", "Why", "Call"], repairs, "live"), none),
  h("section", { class: "card" }, h("h2", {}, "Who did what, of late"), table(["When", "What", "Who", "Where"], actions, "live")),
  h("p", { class: "muted" }, "For programs: ", h("a", { href: "/api/docs" }, "the API, to read and to try"), "."));
}

function facts(list, system) {
  const leader = system.leader;
  const workers = system.processes.filter((one) => one.kind === "dramatiq_worker").length;
  const values = {
    "Leader": leader ? [leader.is_alive ? `${leader.worker_id}, for ${ago(leader.since)}` : `none: ${leader.worker_id} is silent`, !leader.is_alive] : ["no reconciler ever led", true],
    "Epoch": [leader ? leader.epoch : "–"],
    "Workers": [workers || "none: nothing is dialled", !workers],
    "Database": ["answers"],
    "Redis": [system.redis === "ok" ? "answers" : "is away: runs are taken, and dialled when it is back", system.redis !== "ok"],
    "Dialling": [system.stopped ? "stopped" : system.not_before && Date.parse(system.not_before) > serverNow() ? `held back by the carrier until ${new Date(system.not_before).toLocaleTimeString()}` : "allowed", system.stopped],
    "Lines in use": [`${count(system.occupying)} of ${count(system.max_live_calls)}`],
    "Unknown": [count(system.unknown), system.unknown > 0],
    "Dedup conflicts": [`${count(system.waiting_for_phone)} calls wait for a number that another call holds`],
    "Stray calls": [`${count(system.strays)} seen, ${count(system.strays_not_over)} not over`, system.strays_not_over > 0],
  };
  Object.entries(values).forEach(([name, [value, attention]], index) => {
    if (list.children.length <= index * 2) list.append(h("dt", {}, name), h("dd"));
    const cell = list.children[index * 2 + 1];
    setText(cell, visible(value));
    cell.classList.toggle("attention", Boolean(attention));
  });
}

function drawProcesses(body, system) {
  keyed(body, system.processes, (one) => `${one.kind} ${one.worker_id}`, (one) => h("tr", {}, h("td", {}, KINDS[one.kind] ?? word(one.kind)), h("td", { class: "id" }, visible(one.worker_id)), h("td", { class: "nowrap" }), h("td", { class: "right number nowrap" })), (row, one) => {
    setText(row.cells[2], `${ago(one.since)}, ${one.connections} conn.`);
    setText(row.cells[3], one.last_seen_at ? `${duration((Date.parse(system.now) - Date.parse(one.last_seen_at)) / 1000)} ago` : "–");
    row.classList.toggle("leads", one.worker_id === system.leader?.worker_id);
  });
}

function drawBreakers(element, system) {
  const is = JSON.stringify(system.breakers);
  if (element.dataset.is === is) return;
  element.dataset.is = is;
  element.replaceChildren(...system.breakers.map((one) => h("div", { class: "banner warn" }, `The breaker of ${visible(one.carrier)} is open since `, time(one.opened_at), `: ${visible(one.last_error)}. Next trial call `, time(one.next_trial_at), ".")));
}

function makeRepair(one) {
  return h("tr", {}, h("td", { class: "nowrap" }, time(one.at)), h("td", {}, pill(visible(one.event).replaceAll("_", " "))), h("td", {}, one.found_by ? word(one.found_by) : "reconciler"), h("td", {}, visible(one.error ?? "")), h("td", {}, place(one)));
}

function makeAction(one) {
  return h("tr", {}, h("td", { class: "nowrap" }, time(one.at)), h("td", {}, word(one.action), h("div", { class: "muted small" }, detailsOf(one))),
    h("td", {}, one.actor_name ? foreign(one.actor_name, { title: visible(one.actor) }) : h("span", { class: "id" }, visible(one.actor))), h("td", {}, place(one)));
}

function place(one) {
  if (!one.run_id) return "the account";
  return h("a", { href: one.call_id ? `#/runs/${one.run_id}/calls/${one.call_id}` : `#/runs/${one.run_id}` }, one.call_id ? `call ${one.call_id}` : "run");
}
