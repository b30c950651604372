// Calls per second over the last five minutes, as far as this page has watched.

import { svg } from "./dom.js";

const SPAN = 300_000;
const SHORTEST = 60_000;
const WIDTH = 600;
const HEIGHT = 120;
const WINDOW = 5000;
const samples = new Map(); // by run: a plot goes on when one comes back to it

export function note(run, attempts, at) {
  const known = samples.get(run) ?? samples.set(run, []).get(run);
  known.push({ at, attempts });
  while (known[0].at < at - SPAN - WINDOW) known.shift();
}

// Calls per second at a sample, over the five seconds before it; null where nobody watched.
function rateAt(known, index) {
  const here = known[index];
  let first = index;
  while (first > 0 && known[first - 1].at >= here.at - WINDOW && known[first].at - known[first - 1].at < 4000) first -= 1;
  const seconds = (here.at - known[first].at) / 1000;
  return seconds < 0.8 ? null : Math.max(0, here.attempts - known[first].attempts) / seconds;
}

export function rateNow(run) {
  const known = samples.get(run) ?? [];
  return known.length ? rateAt(known, known.length - 1) : null;
}

export function chart(label) {
  const line = svg("path", { class: "line", fill: "none" });
  const area = svg("path", { class: "area" });
  const grid = [0.25, 0.5, 0.75].map((part) => svg("line", { x1: 0, x2: WIDTH, y1: HEIGHT * part, y2: HEIGHT * part, class: "grid" }));
  const element = svg("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, class: "chart", role: "img", "aria-label": label, preserveAspectRatio: "none" }, ...grid, area, line);
  return { element, draw: (run, now) => draw(samples.get(run) ?? [], now, { line, area }) };
}

// Draws, and returns the highest rate that was seen and how far back it goes.
function draw(known, now, { line, area }) {
  const points = known.map((one, index) => ({ at: one.at, rate: rateAt(known, index) })).filter((one) => one.at >= now - SPAN);
  const span = Math.min(SPAN, Math.max(SHORTEST, now - (points[0]?.at ?? now)));
  const peak = Math.max(0, ...points.map((one) => one.rate ?? 0));
  const most = Math.max(1, peak);
  const x = (one) => (WIDTH * (1 - (now - one.at) / span)).toFixed(1);
  const y = (one) => (HEIGHT - (one.rate / most) * (HEIGHT - 6)).toFixed(1);
  let drawn = "";
  let filled = "";
  for (const piece of pieces(points)) {
    const path = piece.map((one) => `${x(one)} ${y(one)}`).join("L");
    drawn += `M${path}`;
    filled += `M${x(piece[0])} ${HEIGHT}L${path}L${x(piece.at(-1))} ${HEIGHT}Z`;
  }
  line.setAttribute("d", drawn);
  area.setAttribute("d", filled);
  return { peak, span };
}

// The line breaks where nobody watched: what happened there is not known.
function pieces(points) {
  const found = [];
  let last = null;
  for (const one of points) {
    if (one.rate === null) { last = null; continue; }
    if (!last || one.at - last.at > 4000) found.push([]);
    found.at(-1).push(one);
    last = one;
  }
  return found;
}
