// Asks again and again, gently: only what changed, not while nobody looks, slower on errors. It
// remembers when the last good answer was asked for, since the age of numbers is always shown.

import { send } from "./api.js";

const EVERY = 1000;
const SLOWEST = 2000;
const TIMEOUT = 4000;
const MOST_BACKOFF = 5000;
const running = new Set();

export class Poller {
  constructor(path, onData, { every = EVERY, onGone = null } = {}) {
    Object.assign(this, { path, onData, every, onGone, etag: null, asOf: null, failures: 0, problem: null, timer: 0, busy: false, stopped: false });
    running.add(this);
    this.ask();
  }

  stop() {
    this.stopped = true;
    clearTimeout(this.timer);
    running.delete(this);
  }

  // Another address, such as the next page: what is shown is of the old one until it answers.
  go(path) {
    Object.assign(this, { path, etag: null });
    this.now();
  }

  now() {
    clearTimeout(this.timer);
    if (this.busy) this.again = true;
    else this.ask();
  }

  async ask() {
    if (this.stopped || document.hidden) return;
    this.busy = true;
    this.again = false;
    const { path } = this;
    const started = Date.now();
    try {
      const headers = this.etag ? { "If-None-Match": this.etag } : {};
      const answer = await send("GET", path, undefined, { headers, signal: AbortSignal.timeout(TIMEOUT) });
      if (this.stopped || path !== this.path) return;
      this.etag = answer.etag;
      Object.assign(this, { asOf: started, failures: 0, problem: null });
      if (answer.status !== 304) this.body = answer.body;
      this.onData(this.body, started);
    } catch (problem) {
      if (this.stopped || path !== this.path) return;
      if (!("status" in problem)) console.error(problem);
      this.problem = problem;
      this.failures += 1;
      if (problem.status === 404 && this.onGone) {
        this.stop();
        this.onGone(problem);
      }
    } finally {
      this.busy = false;
      this.later(Date.now() - started);
    }
  }

  later(took) {
    if (this.stopped || document.hidden) return;
    // An answer that is dear for the server is asked for less often.
    const usual = Math.min(Math.max(this.every, 10 * took), SLOWEST);
    const delay = this.failures ? Math.min(EVERY * 2 ** (this.failures - 1), MOST_BACKOFF) : usual;
    this.timer = setTimeout(() => this.ask(), this.again || this.asOf === null && !this.failures ? 0 : delay);
  }
}

export function pollAllNow() {
  for (const poller of running) poller.now();
}

// The oldest of what this page shows: {asOf, problem}, asOf null while there is nothing yet.
export function oldest() {
  let found = null;
  for (const poller of running) {
    if (!found || (poller.asOf ?? 0) < (found.asOf ?? 0)) found = poller;
  }
  return found;
}

document.addEventListener("visibilitychange", () => { if (!document.hidden) pollAllNow(); });
window.addEventListener("pageshow", (event) => { if (event.persisted) pollAllNow(); });
window.addEventListener("online", pollAllNow);
