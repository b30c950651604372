// Reads people's files: CSV, and JSON Lines, chunk by chunk. Used in the worker, never in the page.

export const MAX_ROWS = 100_000; // leads that one run takes
const DELIMITERS = [",", ";", "\t", "|"];
const ENCODINGS = ["windows-1255", "windows-1252", "windows-1251", "windows-1256", "utf-16le"];

// What people choose by mistake, by how it begins.
const NO_ROWS = [
  [/^PK/, "This is an Excel workbook (or another zip). Save it as “CSV UTF-8” and take that file."],
  [/^\u00d0\u00cf\u0011\u00e0/, "This is an old Excel workbook. Save it as “CSV UTF-8” and take that file."],
  [/^%PDF/, "This is a PDF. Ask whoever made it for the list as CSV."],
  [/^(\u0089PNG|\u00ff\u00d8|GIF8)/, "This is a picture."],
  [/^\s*</, "This is a web page or XML, perhaps with the name of a spreadsheet. Save it as “CSV UTF-8” and take that file."],
  [/^\s*\[/, "This is a JSON list. JSON Lines has one object a line; the command line, outbound run create, takes a list as it is."],
];

export class Unreadable extends Error {}

// The file's encoding, if it says it or can be only one; else null, with how each would read.
export async function encodingOf(file) {
  const head = new Uint8Array(await file.slice(0, 65536).arrayBuffer());
  if (!head.length) throw new Unreadable("The file is empty.");
  const start = String.fromCharCode(...head.slice(head[0] === 0xef ? 3 : 0, 64));
  for (const [begins, words] of NO_ROWS) if (begins.test(start)) throw new Unreadable(words);
  if (head[0] === 0xef && head[1] === 0xbb && head[2] === 0xbf) return { encoding: "utf-8", sure: "it starts with a byte order mark" };
  if (head[0] === 0xff && head[1] === 0xfe) return { encoding: "utf-16le", sure: "it starts with a byte order mark" };
  if (head[0] === 0xfe && head[1] === 0xff) return { encoding: "utf-16be", sure: "it starts with a byte order mark" };
  if (!head.includes(0) && await isUtf8(file)) return { encoding: "utf-8", sure: "it is valid UTF-8" };
  const from = Math.max(0, head.findIndex((byte) => byte > 127) - 20);
  return { encoding: null, samples: ENCODINGS.map((encoding) => ({ encoding, text: new TextDecoder(encoding).decode(head.slice(from, from + 60)) })) };
}

async function isUtf8(file) {
  const decoder = new TextDecoder("utf-8", { fatal: true });
  try {
    for await (const bytes of chunks(file)) decoder.decode(bytes, { stream: true });
    decoder.decode();
    return true;
  } catch {
    return false;
  }
}

async function* chunks(file) {
  for (let at = 0; at < file.size; at += 1 << 20) yield new Uint8Array(await file.slice(at, at + (1 << 20)).arrayBuffer());
}

// All rows: {kind, rows: [{line, cells, wrong}], total}; rows past the most are counted, not kept.
export async function readRows(file, encoding, onProgress) {
  const decoder = new TextDecoder(encoding);
  let reader = null;
  let done = 0;
  for await (const bytes of chunks(file)) {
    const text = decoder.decode(bytes, { stream: true });
    reader ??= text.trimStart().startsWith("{") ? new JsonLines() : new Csv(text);
    reader.feed(text);
    done += bytes.length;
    onProgress(done / file.size);
  }
  reader.feed(decoder.decode());
  reader.end();
  if (!reader.rows.length) throw new Unreadable("The file has no rows.");
  return reader;
}

class Csv {
  kind = "csv";
  rows = [];
  total = 0;
  constructor(text) {
    const first = text.slice(0, (text + "\n").search(/[\r\n]/));
    this.says = /^"?sep=(.)"?$/i.exec(first)?.[1]; // a line that Excel writes, and reads, and nobody sees
    this.delimiter = this.says ?? DELIMITERS.reduce((best, one) => (first.split(one).length > first.split(best).length ? one : best));
    Object.assign(this, { cells: [], cell: "", quoted: false, wasQuote: false, line: 1, started: 1, openedAt: 0 });
  }

  feed(text) {
    let from = 0;
    for (let at = 0; at < text.length; at += 1) {
      const char = text[at];
      if (char === "\n") this.line += 1;
      if (this.quoted) {
        if (char === '"') { this.cell += text.slice(from, at); from = at + 1; this.quoted = false; this.wasQuote = true; }
      } else if (char === '"' && (this.wasQuote || this.cell + text.slice(from, at) === "")) {
        // A doubled quote is one; a first one opens.
        if (this.wasQuote) this.cell += '"';
        else this.openedAt = this.line;
        this.quoted = true;
        this.wasQuote = false;
        from = at + 1;
      } else {
        this.wasQuote = false;
        if (char === this.delimiter) { this.push(text.slice(from, at)); from = at + 1; }
        else if (char === "\n" || char === "\r") { this.push(text.slice(from, at)); from = at + 1; this.endRow(); }
      }
    }
    this.cell += text.slice(from);
  }

  push(rest) {
    this.cells.push((this.cell + rest).trim());
    this.cell = "";
  }

  endRow() {
    if (this.says) this.says = null;
    else if (this.cells.some(Boolean)) {
      this.total += 1;
      if (this.rows.length <= MAX_ROWS) this.rows.push({ line: this.started, cells: this.cells });
    }
    this.cells = [];
    this.started = this.line;
  }

  end() {
    if (this.quoted) throw new Unreadable(`A quote that opens in line ${this.openedAt} is never closed.`);
    if (this.cell || this.cells.length) { this.push(""); this.endRow(); }
  }
}

// The keys of all lines become columns; `variables` is taken apart.
class JsonLines {
  kind = "jsonl";
  rows = [];
  total = 0;
  columns = new Map();
  rest = "";
  line = 0;

  feed(text) {
    const lines = (this.rest + text).split("\n");
    this.rest = lines.pop();
    for (const one of lines) this.take(one);
  }

  take(text) {
    this.line += 1;
    if (!text.trim()) return;
    this.total += 1;
    if (this.rows.length >= MAX_ROWS) return;
    const row = { line: this.line, cells: [] };
    this.rows.push(row);
    let found;
    try { found = JSON.parse(text); } catch { found = null; }
    if (!found || typeof found !== "object" || Array.isArray(found)) {
      Object.assign(row, { wrong: "bad_json", cells: [text.slice(0, 200)] });
      return;
    }
    const { variables, ...plain } = found;
    for (const [name, value] of [...Object.entries(plain), ...Object.entries(variables && typeof variables === "object" ? variables : {})]) {
      if (!this.columns.has(name)) this.columns.set(name, this.columns.size);
      row.cells[this.columns.get(name)] = typeof value === "string" ? value : value === null ? "" : JSON.stringify(value);
    }
  }

  end() {
    if (this.rest) this.take(this.rest);
    if (this.total && !this.columns.size) throw new Unreadable("No line is a JSON object of its own. JSON Lines has one object a line; the command line, outbound run create, takes other JSON as it is.");
    this.header = [...this.columns.keys()];
  }
}

export function looksLikePhone(cell) {
  return /^['"]?[+(]?[\d\s().\-\u200e\u200f]{7,20}$/.test(cell);
}

// Leads for the API, which judges numbers, and rows that are none: {leads, sent, refused}.
export function leadsOf(rows, { phone, lead, variables, width }) {
  const found = { leads: [], sent: [], refused: [] };
  rows.forEach((row, index) => {
    const number = (row.cells[phone] ?? "").trim();
    const code = row.wrong ?? (row.cells.length > width ? "too_many_cells" : !number ? "missing_phone" : null);
    if (code) { found.refused.push({ index, code }); return; }
    const made = { lead_id: lead < 0 ? `row-${row.line}` : row.cells[lead] ?? "", phone: number };
    if (variables.length) made.variables = Object.fromEntries(variables.map(({ column, name }) => [name, row.cells[column] ?? ""]));
    found.leads.push(made);
    found.sent.push(index);
  });
  return found;
}

// For spreadsheets: with a byte order mark, and no cell that they take for a formula.
export function toCsv(lines) {
  const cell = (value) => {
    const text = String(value ?? "");
    const safe = /^[=+\-@\t\r]/.test(text) ? `'${text}` : text;
    return /[",;\r\n]/.test(safe) ? `"${safe.replaceAll('"', '""')}"` : safe;
  };
  return `\ufeff${lines.map((line) => line.map(cell).join(",")).join("\r\n")}\r\n`;
}
