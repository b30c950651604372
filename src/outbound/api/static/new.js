// A new run from a file: read in a worker, shown before it is sent, sent once however often pressed.

import { Problem, send } from "./api.js";
import { allow, foreign, h, isAllowed, notice, setHidden, setText, visible } from "./dom.js";
import { count, many, reason } from "./words.js";

const PHONE = /phone|mobile|cell|tel|number|טלפון|נייד|هاتف|телефон/i;
const LEAD = /^(lead.?id|id|external.?id|crm.?id|customer.?id|lead)$/i;
const FRESH = ["windows-1255", "windows-1252", "windows-1251", "windows-1256", "utf-8", "utf-16le", "utf-16be"];
const workerUrl = window.trustedTypes?.createPolicy("outbound-worker", { createScriptURL: (own) => own }) ?? { createScriptURL: (own) => own };
const MOST_BYTES = 64 << 20; // of a request
let kept = null; // the form stays as it is while one looks at another page

window.addEventListener("beforeunload", (event) => { if (kept?.form.isTouched) event.preventDefault(); });

export function newRunPage(context) {
  if (!context.mayOperate) return h("section", {}, h("h1", {}, "New run"), h("p", {}, "Your key has the role viewer: it may look, and start nothing. Sign in with a key of the role operator or admin."));
  if (kept?.account !== context.who.account_name) kept = { account: context.who.account_name, form: new Form() };
  return kept.form.element;
}

class Form {
  constructor() {
    this.key = crypto.randomUUID(); // one for this form: a second press is answered as the first was
    this.waiting = new Map();
    this.worker = new Worker(workerUrl.createScriptURL(new URL("rows-worker.js", import.meta.url).href), { type: "module" });
    this.worker.onmessage = ({ data }) => this.hear(data);
    this.build();
    this.readAccount();
  }

  tell(message) {
    const id = crypto.randomUUID();
    this.worker.postMessage({ id, ...message });
    return new Promise((resolve, reject) => this.waiting.set(id, { resolve, reject }));
  }

  hear({ id, ...answer }) {
    if (answer.progress) return setText(this.state, `Reading… ${Math.round(answer.progress * 100)}%`);
    const { resolve, reject } = this.waiting.get(id);
    this.waiting.delete(id);
    if (answer.error) reject(new Error(answer.error));
    else resolve(answer);
  }

  build() {
    this.file = h("input", { type: "file", id: "file", accept: ".csv,.txt,.tsv,.jsonl,.ndjson,text/*", onchange: () => this.file.files[0] && this.load(this.file.files[0], this.file.files[0].name) });
    this.paste = h("textarea", { id: "paste", rows: 3, placeholder: "lead_id,phone,name\ncrm-1,+12025550101,Dana", spellcheck: false, dir: "auto" });
    this.state = h("p", { role: "status", class: "muted" }, "");
    this.wrong = h("p", { role: "alert", class: "error" });
    this.encoding = h("div");
    this.preview = h("div");
    this.result = h("section", { class: "card", hidden: true });
    const drop = h("div", { class: "drop" }, h("label", { for: "file" }, "Drop a CSV or JSON Lines file here, or choose one: "), this.file);
    drop.addEventListener("dragover", (event) => { event.preventDefault(); drop.classList.add("over"); });
    drop.addEventListener("dragleave", () => drop.classList.remove("over"));
    drop.addEventListener("drop", (event) => {
      event.preventDefault();
      drop.classList.remove("over");
      const [one] = event.dataTransfer.files;
      if (one) this.load(one, one.name);
    });
    this.submit = h("button", { type: "submit", class: "primary", "aria-disabled": "true", title: "Choose a file first." }, "Start run");
    this.form = h("form", { onsubmit: (event) => { event.preventDefault(); this.start(); } }, this.settings(), this.wrong, h("div", { class: "actions" }, this.submit));
    this.element = h("section", { class: "new", oninput: () => { this.isTouched = true; } }, h("h1", {}, "New run"), this.result,
      h("section", { class: "card" }, h("h2", {}, "1. Leads"), drop,
        h("details", {}, h("summary", {}, "or paste them"), h("label", { for: "paste", class: "unseen" }, "Leads as CSV or JSON Lines"), this.paste,
          h("button", { type: "button", onclick: () => this.load(new Blob([this.paste.value]), "what you pasted") }, "Use this")),
        this.state, this.encoding, this.preview),
      h("section", { class: "card" }, h("h2", {}, "2. Calls"), this.form));
  }

  settings() {
    const field = (label, input, help) => h("label", { class: "field" }, h("span", {}, label), input, help ? h("small", { class: "muted" }, help) : null);
    const number = (name, value, min, max, step) => h("input", { name, type: "number", value, min, max, step, required: true });
    this.callers = h("select", { name: "caller_id" }, h("option", { value: "" }, "the account’s first"));
    this.twiml = h("textarea", { name: "twiml", rows: 3, maxlength: 4000, spellcheck: false, placeholder: "<Response><Say>Hello {{name}}</Say></Response>" });
    return h("div", { class: "grid" },
      field("Name", h("input", { name: "name", maxlength: 200, dir: "auto" })), field("Calls from", this.callers),
      field("Script (TwiML)", this.twiml, "{{column}} is filled from the file. Leave both empty for the account’s default."),
      field("or answer URL", h("input", { name: "answer_url", type: "url", placeholder: "https://crm.example/twiml" })),
      field("Calls per second", number("calls_per_second", 1, 0.01, 1000, "any")), field("Calls at once", number("concurrency", 10, 1, 1000, 1)),
      field("Tries at most", number("max_attempts", 1, 1, 20, 1), "Again on busy and no answer."), field("Minutes between tries", number("delay", 10, 0, 10080, "any")),
      field("Starts", h("input", { name: "start_at", type: "datetime-local" }), `In your time zone, ${Intl.DateTimeFormat().resolvedOptions().timeZone}. Empty: now.`),
      field("If nobody knows whether a call happened", h("select", { name: "on_unknown" }, h("option", { value: "hold" }, "leave it to a person"), h("option", { value: "redial" }, "call again after 15 minutes without any trace")), "Calling again may call somebody twice."));
  }

  async readAccount() {
    try {
      const { body } = await send("GET", "/account");
      this.callers.append(...body.caller_ids.map((one) => h("option", { value: one }, visible(one))));
      if (body.default_twiml || body.default_answer_url) this.twiml.placeholder = "empty: the account’s default";
    } catch (problem) {
      setText(this.wrong, problem.message);
    }
  }

  async load(file, name, encoding = null) {
    const turn = (this.turn = (this.turn ?? 0) + 1); // of two files, the later one counts
    allow(this.submit, false, "The file is being read.");
    this.preview.replaceChildren();
    if (!encoding) this.encoding.replaceChildren();
    setText(this.state, `Reading ${visible(name)}…`);
    this.loaded = null;
    try {
      const answer = await this.tell({ does: "load", file, encoding });
      if (turn !== this.turn) return;
      this.chooseEncoding(answer, file, name);
      if (answer.ask) this.askEncoding();
      else this.show(answer, name);
    } catch (error) {
      if (turn === this.turn) this.refuse(error);
    }
  }

  askEncoding() {
    setText(this.state, "This file does not say how it is written. Choose the line that reads right:");
    allow(this.submit, false, "Say first how the file is written.");
  }

  refuse(error) {
    this.loaded = null;
    this.preview.replaceChildren(h("p", { class: "error", role: "alert" }, visible(error.message)));
    setText(this.state, "");
    allow(this.submit, false, "Choose another file first.");
  }

  chooseEncoding(answer, file, name) {
    const again = (encoding) => this.load(file, name, encoding);
    if (answer.ask) {
      this.encoding.replaceChildren(h("fieldset", {}, h("legend", {}, "How is it written?"), ...answer.ask.map(({ encoding, text }) => h("label", { class: "choice" },
        h("input", { type: "radio", name: "encoding", value: encoding, onchange: () => again(encoding) }), h("span", { class: "sample" }, encoding, ": ", foreign(text))))));
      return;
    }
    if (this.encoding.querySelector("fieldset")) return;
    const select = h("select", { id: "encoding", onchange: () => again(select.value) }, ...[...new Set([answer.encoding, ...FRESH])].map((one) => h("option", { value: one, selected: one === answer.encoding }, one)));
    this.encoding.replaceChildren(h("p", { class: "small" }, h("label", { for: "encoding" }, "Read as "), select, answer.sure ? h("span", { class: "muted" }, ` because ${answer.sure}`) : ""));
  }

  show(answer, name) {
    this.loaded = answer;
    setText(this.state, `${visible(name)}: ${many(answer.total, "row")}.`);
    const roleOf = guess(answer.header, answer.sample);
    const roles = answer.header.map((column, index) => h("select", { "aria-label": `What is ${column}?`, onchange: () => this.check() },
      ...[["variable", "variable"], ["phone", "phone"], ["lead", "lead id"], ["", "leave out"]].map(([value, text]) => h("option", { value, selected: roleOf[index] === value }, text))));
    this.roles = roles;
    const first = h("input", { type: "checkbox", checked: answer.first, onchange: async () => {
      try { this.show({ ...answer, ...(await this.tell({ does: "header", first: first.checked })) }, name); } catch (error) { this.refuse(error); }
    } });
    this.preview.replaceChildren(
      answer.kind === "csv" ? h("label", { class: "check small" }, first, ` The first row has the names (separated by ${answer.delimiter === "\t" ? "tabs" : answer.delimiter})`) : "",
      h("div", { class: "scroll" }, h("table", { class: "preview" }, h("caption", { class: "unseen" }, "The first rows"),
        h("thead", {}, h("tr", {}, ...answer.header.map((column, index) => h("th", { scope: "col" }, foreign(column, { class: "cut" }), h("br"), roles[index])))),
        h("tbody", {}, ...answer.sample.map((row) => h("tr", {}, ...answer.header.map((_, index) => h("td", {}, foreign(row[index] ?? "", { class: "cut" })))))))),
      h("p", { class: "muted small" }, "Without a lead id column the row’s number is used. Phone numbers are judged when the run is started."));
    this.check();
  }

  mapping() {
    const having = (role) => this.roles.flatMap((select, column) => (select.value === role ? [column] : []));
    return { phones: having("phone"), leads: having("lead"), variables: having("variable").map((column) => ({ column, name: this.loaded.header[column].trim() })) };
  }

  check() {
    const { phones, leads } = this.mapping();
    const wrong = phones.length !== 1 ? "Say which one column has the phone numbers." : leads.length > 1 ? "Only one column can be the lead id." : "";
    setText(this.wrong, wrong);
    allow(this.submit, !wrong, wrong);
  }

  body(allowDuplicate) {
    const data = Object.fromEntries(new FormData(this.form));
    const text = (name) => data[name].trim() || null;
    return {
      name: text("name"), caller_id: text("caller_id"), twiml: text("twiml"), answer_url: text("answer_url"),
      calls_per_second: Number(data.calls_per_second), concurrency: Number(data.concurrency),
      retry: { max_attempts: Number(data.max_attempts), delay: Math.round(Number(data.delay) * 60), on: ["busy", "no_answer"] },
      on_unknown: data.on_unknown === "redial" ? { action: "redial", after: 900 } : { action: "hold" },
      start_at: data.start_at ? new Date(data.start_at).toISOString() : null, allow_duplicate: allowDuplicate,
    };
  }

  async start(allowDuplicate = false) {
    if (this.isSending) return; // the second half of a double click
    if (!isAllowed(this.submit)) return setText(this.wrong, this.submit.title);
    const { phones, leads, variables } = this.mapping();
    this.isSending = true;
    allow(this.submit, false, "It is being sent.");
    setText(this.wrong, "");
    setText(this.submit, "Sending…");
    try {
      const built = await this.tell({ does: "build", mapping: { phone: phones[0], lead: leads[0] ?? -1, variables }, settings: this.body(allowDuplicate) });
      if (!built.count) throw new Problem(422, { detail: `No row can be called. ${built.refused.map((one) => `Line ${one.line}: ${reason(one.code)}`).join(" ")}` });
      if (built.body.size > MOST_BYTES) throw new Problem(413, { detail: `All rows together are ${Math.ceil(built.body.size / (1 << 20))} MiB; one run takes ${MOST_BYTES >> 20}. Split the file, or leave out columns.` });
      const { body } = await send("POST", "/runs", built.body, { headers: { "Idempotency-Key": this.key } });
      this.taken(body, built);
    } catch (problem) {
      this.fail(problem);
    } finally {
      this.isSending = false;
      setText(this.submit, "Start run");
      if (this.loaded) allow(this.submit, true);
    }
  }

  fail(problem) {
    // An answer means that nothing was stored under the key; without one it must stay the same.
    if (problem.status >= 400 && problem.status < 500 && problem.code !== "in_progress") this.key = crypto.randomUUID();
    const rejected = (problem.body?.rejections ?? []).slice(0, 3).map((one) => reason(one.code));
    this.wrong.replaceChildren(`${visible(problem.words ?? problem.message)} ${rejected.join(" ")}`);
    if (problem.code === "duplicate_run") {
      this.wrong.replaceChildren("The same rows with the same settings became a run less than ten minutes ago. ", h("a", { href: `#/runs/${problem.body.run_id}` }, "Show that run"), " ", h("button", { type: "button", onclick: () => this.start(true) }, "Start it once more"));
    }
    if (problem.status === 0) this.wrong.append(" Press Start run again: it is started once only.");
  }

  taken(run, built) {
    this.key = crypto.randomUUID();
    const left = built.refusedCount + run.rejected + run.duplicates;
    this.loaded = null;
    this.isTouched = false;
    this.preview.replaceChildren();
    this.encoding.replaceChildren();
    this.file.value = "";
    this.paste.value = "";
    setText(this.state, "");
    allow(this.submit, false, "Choose a file first.");
    setHidden(this.result, false);
    const words = [...built.refused, ...run.rejections.map((one) => ({ code: one.code }))].map((one) => one.code);
    this.result.replaceChildren(h("h2", {}, "The run is stored"), h("p", {}, `${many(run.accepted, "lead")} to call. `,
      left ? `${many(left, "row")} left out: ${count(run.duplicates)} double, ${count(built.refusedCount + run.rejected)} not usable.` : "No row is left out."),
    h("ul", { class: "small" }, ...[...new Set(words)].slice(0, 6).map((code) => h("li", {}, reason(code)))),
    h("div", { class: "actions start" }, h("a", { class: "button primary", href: `#/runs/${run.run_id}` }, "Watch the run"),
      left ? h("button", { type: "button", onclick: () => this.download(run) }, "Download the rows left out") : null));
    this.result.scrollIntoView({ block: "nearest" });
    notice("The run is stored.");
  }

  async download(run) {
    const rejections = [];
    let cursor = "";
    try {
      do {
        const { body } = await send("GET", `/runs/${run.run_id}/rejections?limit=500&cursor=${cursor}`);
        rejections.push(...body.items);
        cursor = body.next_cursor;
      } while (cursor);
      const { csv } = await this.tell({ does: "report", rejections });
      const link = h("a", { href: URL.createObjectURL(csv), download: `left-out-${run.run_id}.csv` });
      link.click();
      setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
    } catch (problem) {
      notice(problem.words ?? problem.message, "bad");
    }
  }
}

// The roles of the columns, by their names, and the phone by its look if no name says it.
function guess(header, sample) {
  let phone = header.findIndex((name) => PHONE.test(name));
  if (phone < 0) phone = header.findIndex((_, index) => sample.length && sample.every((row) => /^['+\d][\d\s().-]{6,}$/.test(row[index] ?? "")));
  const lead = header.findIndex((name, index) => index !== phone && LEAD.test(name.trim()));
  return header.map((_, index) => (index === phone ? "phone" : index === lead ? "lead" : "variable"));
}
