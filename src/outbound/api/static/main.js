// The frame: who is signed in, which page is shown, how old its numbers are, and the stop button.

import { Problem, actAs, send, session } from "./api.js";
import { allow, announce, ask, h, isAllowed, notice, setHidden, setText, visible } from "./dom.js";
import { Poller, oldest, pollAllNow } from "./poll.js";
import { clock, count, duration } from "./words.js";
import { runsPage } from "./runs.js";
import { runPage } from "./run.js";
import { callPage, callsPage } from "./calls.js";
import { unknownPage } from "./unknown.js";
import { newRunPage } from "./new.js";
import { systemPage } from "./system.js";

const STALE_AFTER = 3000;
const PAGES = [
  [/^\/runs$/, runsPage, "Runs"],
  [/^\/runs\/([^/]+)$/, runPage, "Run"],
  [/^\/runs\/([^/]+)\/calls$/, callsPage, "Calls"],
  [/^\/runs\/([^/]+)\/unknown$/, unknownPage, "Unknown calls"],
  [/^\/runs\/([^/]+)\/calls\/([^/]+)$/, callPage, "Call"],
  [/^\/unknown$/, unknownPage, "Unknown calls"],
  [/^\/new$/, newRunPage, "New run"],
  [/^\/system$/, systemPage, "System"],
];
const $ = (id) => document.getElementById(id);

const state = { who: null, page: null, system: null, pollers: [], freshness: "" };

// --- pages -------------------------------------------------------------------------------------

const scrolls = new Map();
let shownHash = "";
let followsLink = false;

function show() {
  if (shownHash) scrolls.set(shownHash, window.scrollY);
  for (const poller of state.pollers.splice(0)) poller.stop();
  const goesBack = !followsLink;
  followsLink = false;
  shownHash = location.hash || "#/runs";
  const [path, query] = shownHash.slice(1).split("?");
  const [, page, title, match] = find(path);
  const context = contextOf(match.slice(1).map(decode), new URLSearchParams(query));
  document.title = `${title} · Outbound`;
  document.body.dataset.page = title;
  $("main").replaceChildren(page(context));
  markNavigation(path);
  if (state.started) $("main").focus({ preventScroll: true });
  state.started = true;
  restore(goesBack ? scrolls.get(shownHash) ?? 0 : 0);
  tick();
}

function find(path) {
  for (const [pattern, page, title] of PAGES) {
    const match = pattern.exec(path);
    if (match) return [pattern, page, title, match];
  }
  return [null, () => h("p", {}, "There is no such page. ", h("a", { href: "#/runs" }, "All runs")), "Not found", [""]];
}

function decode(text) {
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
}

function contextOf(params, query) {
  return {
    params, query, who: state.who, system: state.system,
    mayOperate: state.who.role !== "viewer",
    poll(path, onData, options) {
      const poller = new Poller(path, onData, options);
      state.pollers.push(poller);
      return poller;
    },
    gone: (problem) => $("main").replaceChildren(h("h1", {}, "Not found"),
      h("p", {}, visible(problem.message), " ", h("a", { href: "#/runs" }, "All runs"))),
  };
}

// A page is as long as before only once its first answer is there.
function restore(y) {
  window.scrollTo(0, y);
  if (!y) return;
  const until = Date.now() + 2000;
  const again = () => {
    if (window.scrollY === y || Date.now() > until) return;
    window.scrollTo(0, y);
    requestAnimationFrame(again);
  };
  again();
}

function markNavigation(path) {
  for (const link of document.querySelectorAll("nav a")) {
    const here = path === link.hash.slice(1) || (link.hash === "#/runs" && path.startsWith("/runs/"));
    if (here) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
}

// --- how old the numbers are --------------------------------------------------------------------

// That nobody is signed in, or that there is no such run, the page says itself.
const TOLD_ELSEWHERE = [401, 404];

function tick() {
  if (!state.who) return;
  const worst = oldest();
  const asOf = worst?.asOf ?? null;
  const age = asOf === null ? null : Date.now() - asOf;
  const failed = worst?.problem && !TOLD_ELSEWHERE.includes(worst.problem.status);
  const stale = age === null ? Boolean(failed) : age > STALE_AFTER;
  document.body.classList.toggle("is-stale", stale);
  setText($("freshness"), asOf === null ? "loading…" : `as of ${clock(asOf)}`);
  setHidden($("stale"), !stale);
  if (stale) setText($("stale"), staleWords(worst, age));
  const now = stale ? (worst?.problem ? "lost" : "old") : asOf === null ? "" : "current";
  if (now && now !== state.freshness) {
    // A change is announced, not every tick.
    if (state.freshness) announce(stale ? staleWords(worst, age) : "The numbers are current again.");
    state.freshness = now;
  }
}

function staleWords(worst, age) {
  const old = age === null ? "There are no numbers yet" : `Not current: these numbers are ${duration(age / 1000)} old (as of ${clock(worst.asOf)})`;
  const why = worst.problem ? visible(worst.problem.message) : "Asking again now.";
  return `${old}. ${why}${worst.problem ? " Trying again by itself." : ""}`;
}

// --- the whole account --------------------------------------------------------------------------

function onSystem(system) {
  state.systemData = system;
  state.system.dispatchEvent(new CustomEvent("data", { detail: system }));
  setHidden($("stopped"), !system.stopped);
  setHidden($("unknown-count"), !system.unknown);
  setText($("unknown-count"), count(system.unknown));
  allow($("stop"), mayOperate() && !system.stopped, mayOperate() ? "All dialling is stopped already." : roleWords());
}

function mayOperate() {
  return state.who && state.who.role !== "viewer";
}

function roleWords() {
  return "Your key has the role viewer: it may look, and change nothing.";
}

function stopAll() {
  if (!isAllowed($("stop"))) return notice($("stop").title, "bad");
  ask({
    title: "Stop all dialling?",
    body: [
      h("p", {}, "No run of this account makes a new call, at once, until it is started again. A request that is already on its way to the carrier may still arrive."),
      h("label", { class: "check" }, h("input", { type: "checkbox", name: "hang_up" }), " Also hang up the calls that are going on"),
    ],
    action: "Stop all dialling", danger: true,
    act: (data) => act("stop", { hang_up: data.get("hang_up") !== null }, "All dialling is stopped.", "Stopped; requests on their way are still being waited for."),
  });
}

async function act(verb, body, done, soon) {
  try {
    const answer = await send("POST", `/account/${verb}`, body);
    notice(answer.status === 202 ? soon : done);
  } finally {
    pollAllNow();
  }
}

// --- the session --------------------------------------------------------------------------------

async function enter() {
  try {
    state.who = (await send("GET", "/session", undefined, { base: "" })).body;
  } catch (problem) {
    if (problem.status !== 401) {
      $("main").replaceChildren(h("p", { class: "error" }, visible(problem.message)));
      setTimeout(enter, 2000);
      return;
    }
    return askForKey("Use an API key of your account.");
  }
  begin();
}

function begin() {
  const { who } = state;
  actAs(who.key_id);
  $("account").replaceChildren(h("bdi", { title: `key …${who.hint}${who.key_name ? ` (${visible(who.key_name)})` : ""}` }, visible(who.account_name)), ` · ${who.role}`);
  allow($("stop"), mayOperate(), roleWords());
  setHidden($("start"), !mayOperate());
  state.system?.poller.stop();
  state.system = new EventTarget();
  state.system.poller = new Poller("/system", onSystem, { every: 1500 });
  state.system.last = () => state.systemData;
  show();
}

function askForKey(why) {
  const dialog = $("sign-in");
  setText($("sign-in-why"), why);
  if (!dialog.open) dialog.showModal();
  $("api-key").focus();
}

async function signIn(event) {
  event.preventDefault();
  const field = $("api-key");
  setText($("sign-in-error"), "");
  const before = state.who;
  try {
    const { body } = await send("POST", "/session", { key: field.value }, { base: "" });
    // Proves that the browser kept the cookie; some drop it without a word.
    state.who = (await send("GET", "/session", undefined, { base: "" })).body;
    field.value = "";
    $("sign-in").close();
    // The same account goes on where it was, with its forms as they were.
    if (before?.key_id === body.key_id) pollAllNow();
    else begin();
  } catch (problem) {
    setText($("sign-in-error"), problem.code === "unauthorized" && problem.message.startsWith("Nobody")
      ? "The key is good, but the browser did not keep the session's cookie. Allow cookies for this address, and use https (or localhost)."
      : problem.words ?? String(problem));
    field.focus();
  }
}

async function signOut() {
  try {
    await send("DELETE", "/session", undefined, { base: "" });
  } catch (problem) {
    return notice(`Not signed out: ${problem.message}`, "bad");
  }
  leave();
  askForKey("You are signed out.");
}

function leave() {
  for (const poller of state.pollers.splice(0)) poller.stop();
  state.system?.poller.stop();
  Object.assign(state, { who: null, systemData: null, freshness: "" });
  setText($("account"), "");
  setText($("freshness"), "");
  setHidden($("stale"), true);
  setHidden($("stopped"), true);
  document.body.classList.remove("is-stale");
  $("main").replaceChildren();
}

session.addEventListener("over", (event) => {
  if (!$("sign-in").open) askForKey(`${event.detail} Sign in again and you are back where you were.`);
});
$("sign-in").addEventListener("cancel", (event) => event.preventDefault());
$("sign-in-form").addEventListener("submit", signIn);
$("sign-out").addEventListener("click", signOut);
$("stop").addEventListener("click", stopAll);
$("start").addEventListener("click", () => act("start", {}, "Dialling goes on.", "Dialling goes on."));
document.addEventListener("click", (event) => { if (event.target.closest?.("a[href^='#/']")) followsLink = true; });
document.querySelector(".skip").addEventListener("click", (event) => { event.preventDefault(); $("main").focus(); });
window.addEventListener("hashchange", () => { if (state.who) show(); });
document.addEventListener("visibilitychange", tick);
window.addEventListener("unhandledrejection", (event) => { if (event.reason instanceof Problem) notice(event.reason.words, "bad"); });
history.scrollRestoration = "manual";
setInterval(tick, 250);
enter();
