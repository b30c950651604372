// The API, as this page speaks it. The session is a cookie that no script can read.

const API = "/api/outbound";
let clockAhead = 0; // of the server's clock, in milliseconds
let keyId = null; // of the key as whose this page shows itself

export class Problem extends Error {
  constructor(status, body) {
    super(body.detail || "Something went wrong.");
    this.status = status;
    this.code = (body.type || "").replace("urn:outbound:problem:", "");
    this.body = body;
  }

  // All of what is wrong, for people.
  get words() {
    const faults = (this.body.errors || []).slice(0, 5).map((one) => `${one.pointer.replace("#/", "")}: ${one.detail}`);
    return [this.message, ...faults].join(" ");
  }
}

export function serverNow() {
  return Date.now() + clockAhead;
}

// All that is sent from now on is sent as this key, or refused: the cookie is of all tabs.
export function actAs(key) {
  keyId = key;
}

// Who wants to know that the session is over, and why.
export const session = new EventTarget();

export async function send(method, path, body, { headers = {}, signal = null, base = API } = {}) {
  const options = { method, headers: { ...headers }, cache: "no-store", credentials: "same-origin", signal };
  if (body !== undefined) {
    options.body = body instanceof Blob ? body : JSON.stringify(body);
    options.headers["Content-Type"] = "application/json";
  }
  if (keyId && path !== "/session") options.headers["X-Outbound-Key"] = keyId;
  const sent = Date.now();
  let response;
  try {
    response = await fetch(base + path, options);
  } catch (error) {
    throw new Problem(0, { detail: `The server does not answer.${method === "GET" ? "" : " Whether it got the request is not known."}` });
  }
  readClock(response, sent);
  const answer = await read(response);
  if (response.ok || response.status === 304) {
    return { status: response.status, body: answer, etag: response.headers.get("ETag"), sent };
  }
  if (response.status === 401 && path !== "/session") {
    session.dispatchEvent(new CustomEvent("over", { detail: answer?.detail ?? "Your session is over." }));
  }
  throw new Problem(response.status, answer || { detail: `The server answered ${response.status}.` });
}

function readClock(response, sent) {
  const date = Date.parse(response.headers.get("Date"));
  // It has whole seconds only, so less than a second is no difference.
  if (Number.isFinite(date)) clockAhead = Math.abs(date - sent) > 1500 ? date + 500 - sent : 0;
}

async function read(response) {
  const type = response.headers.get("Content-Type") || "";
  if (!type.includes("json")) return null;
  try {
    return await response.json();
  } catch {
    throw new Problem(0, { detail: "The server broke off in the middle of its answer." });
  }
}
