// Reads a file off the page's own thread: 50 MB must not freeze a button.

import { MAX_ROWS, Unreadable, encodingOf, leadsOf, looksLikePhone, readRows, toCsv } from "./rows.js";

let file = null;
let read = null; // what the reader found
let header = [];
let rows = [];
let built = null;

const does = {
  async load(asked) {
    if (asked.file) file = asked.file;
    let { encoding } = asked;
    let sure = null;
    if (!encoding) {
      const found = await encodingOf(file);
      if (!found.encoding) return { ask: found.samples };
      ({ encoding, sure } = found);
    }
    let told = 0;
    read = await readRows(file, encoding, (part) => {
      if (part - told > 0.02) postMessage({ progress: told = part });
    });
    return { ...useHeader(read.kind === "jsonl" || !read.rows[0].cells.some(looksLikePhone)), encoding, sure };
  },

  header: ({ first }) => useHeader(first),

  build({ mapping, settings }) {
    built = leadsOf(rows, { ...mapping, width: header.length });
    const body = new Blob([JSON.stringify({ ...settings, leads: built.leads })], { type: "application/json" });
    return { body, count: built.leads.length, refused: built.refused.slice(0, 5).map(({ index, code }) => ({ line: rows[index].line, code })), refusedCount: built.refused.length };
  },

  // The rows left out, by this page or by the server, as they were, with line and reason.
  report({ rejections }) {
    const all = [...built.refused, ...rejections.map(({ index, code }) => ({ index: built.sent[index], code }))].sort((a, b) => a.index - b.index);
    return { csv: new Blob([toCsv([["line", "reason", ...header], ...all.map(({ index, code }) => [rows[index].line, code, ...rows[index].cells])])], { type: "text/csv" }) };
  },
};

function useHeader(first) {
  const isCsv = read.kind === "csv";
  const width = Math.max(...read.rows.slice(0, 100).map((row) => row.cells.length));
  header = !isCsv ? read.header : first ? read.rows[0].cells.map((name, index) => name || `column ${index + 1}`) : Array.from({ length: width }, (_, index) => `column ${index + 1}`);
  rows = isCsv && first ? read.rows.slice(1) : read.rows;
  const total = read.total - (isCsv && first ? 1 : 0);
  if (!total) throw new Unreadable("The file has a header and no rows.");
  if (total > MAX_ROWS) throw new Unreadable(`The file has ${total.toLocaleString()} rows; one run takes ${MAX_ROWS.toLocaleString()}. Split it.`);
  return { kind: read.kind, delimiter: read.delimiter, header, first, total, sample: rows.slice(0, 5).map((row) => row.cells.slice(0, 60)) };
}

onmessage = async ({ data }) => {
  try {
    postMessage({ id: data.id, ...(await does[data.does](data)) });
  } catch (error) {
    postMessage({ id: data.id, error: error instanceof Unreadable ? error.message : `The file cannot be read: ${error.message}` });
  }
};
