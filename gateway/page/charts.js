// Three small SVG charts: the batch time L(b) with N, and the queue and latency of the last minute.

const NAMESPACE = "http://www.w3.org/2000/svg";
const MARGIN = { top: 14, right: 58, bottom: 20, left: 6 };
const MINUTE = 300; // samples, five per second

/** Draws L(b), N, the interval from which N is chosen, and the sizes that miss the latency target. */
export function curve(svg, worker) {
  const { width, height } = begin(svg);
  if (!worker?.curve?.length) return;
  const most = worker.curve.at(-1)[0];
  const top = nice(Math.max(...worker.curve.map(([, ms]) => ms)) * 1.08);
  const x = (rows) => MARGIN.left + (rows / most) * (width - MARGIN.left - MARGIN.right);
  const y = (ms) => height - MARGIN.bottom - (ms / top) * (height - MARGIN.top - MARGIN.bottom);
  const [floor, ceiling] = [y(0), y(top)];
  const band = (from, to, kind) =>
    add(svg, "rect", { x: x(from), y: ceiling, width: Math.max(0, x(to) - x(from)), height: floor - ceiling, class: kind });

  const [least, worth] = worker.interval;
  band(least === worth ? least - 0.5 : least, least === worth ? worth + 0.5 : worth, "area");
  const slow = worker.slo_n ?? 0;
  if (slow < most) {
    band(slow, most, "late");
    label(svg, x(most) - 4, floor - 7, `too slow for ${round(worker.slo_ms)} ms`, "end");
  }
  add(svg, "path", { d: path([[x(0), floor], [x(most), floor]]), class: "axis" });
  for (const ms of ticks(top)) label(svg, x(most) + 8, y(ms) + 4, `${round(ms)} ms`, "start");
  for (const rows of [1, most / 2]) label(svg, x(rows), floor + 15, round(rows), "middle");
  label(svg, x(most), floor + 15, `${most} rows`, "middle");

  const points = worker.curve.map(([rows, ms]) => [x(rows), y(ms)]);
  add(svg, "path", { d: path(points), class: "line" });
  points.forEach(([cx, cy]) => add(svg, "circle", { cx, cy, r: 3, class: "point" }));
  const at = y(time(worker.curve, worker.n));
  add(svg, "path", { d: path([[x(worker.n), floor], [x(worker.n), at]]), class: "n" });
  add(svg, "circle", { cx: x(worker.n), cy: at, r: 6, class: "point n" });
  const right = worker.n > most / 2;
  const text = `N = ${worker.n}: ${round(time(worker.curve, worker.n))} ms`;
  label(svg, x(worker.n) + (right ? -10 : 10), at - 9, text, right ? "end" : "start", "strong");
}

/** L(b) for this number of rows, interpolated between the measured sizes. */
function time(points, rows) {
  const next = points.findIndex(([size]) => size >= rows);
  if (next <= 0) return points.at(next)[1];
  const [[b0, t0], [b1, t1]] = [points[next - 1], points[next]];
  return t0 + ((t1 - t0) * (rows - b0)) / (b1 - b0);
}

/** Draws the requests in flight and waiting. */
export function queue(svg, samples) {
  const of = (name) => samples.map((sample) => sample[name]);
  const [flying, waiting] = [of("in_flight"), of("waiting")];
  minute(svg, [{ values: flying, filled: true }, { values: waiting, kind: "second" }], "", 4);
}

/** Draws the latency of requests; `target` is the target for p99. */
export function latency(svg, samples, target) {
  const of = (name) => samples.map((sample) => sample[name]);
  const [p99, p50] = [of("p99_ms"), of("p50_ms")];
  minute(svg, [{ values: p99, filled: true }, { values: p50, kind: "second" }], " ms", 10, target);
}

/** Draws lines over the last minute; the right edge is now. */
function minute(svg, lines, unit, least, target) {
  const { width, height } = begin(svg);
  const known = lines.flatMap(({ values }) => values).filter((value) => value !== null);
  const top = nice(Math.max(least, ...known) * 1.05);
  const right = width - MARGIN.right;
  const x = (at, count) => right - ((count - 1 - at) / (MINUTE - 1)) * (right - MARGIN.left);
  const y = (value) => height - MARGIN.bottom - (value / top) * (height - MARGIN.top - MARGIN.bottom);
  add(svg, "path", { d: path([[MARGIN.left, y(0)], [right, y(0)]]), class: "axis" });
  add(svg, "path", { d: path([[MARGIN.left, y(top)], [right, y(top)]]), class: "axis" });
  label(svg, right + 8, y(top) + 4, `${round(top)}${unit}`, "start");
  label(svg, MARGIN.left, height - 4, "a minute ago", "start");
  label(svg, right, height - 4, "now", "end");
  if (target !== undefined && target <= top) {
    add(svg, "path", { d: path([[MARGIN.left, y(target)], [right, y(target)]]), class: "target" });
  }
  for (const { values, kind = "", filled = false } of lines) {
    for (const run of runs(values)) {
      const points = run.map(([at, value]) => [x(at, values.length), y(value)]);
      if (filled) {
        const [first, last] = [points[0][0], points.at(-1)[0]];
        add(svg, "path", { d: `${path([...points, [last, y(0)], [first, y(0)]])}Z`, class: "area" });
      }
      add(svg, "path", { d: path(points), class: `line ${kind}` });
    }
  }
}

/** The runs of known values in a list, each value with its index. */
function runs(values) {
  const found = [];
  let run = null;
  values.forEach((value, at) => {
    if (value === null) {
      run = null;
    } else if (run) {
      run.push([at, value]);
    } else {
      found.push((run = [[at, value]]));
    }
  });
  return found;
}

function begin(svg) {
  const { clientWidth: width, clientHeight: height } = svg;
  svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
  svg.replaceChildren();
  return { width, height };
}

function add(svg, name, attributes) {
  const element = document.createElementNS(NAMESPACE, name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  svg.append(element);
  return element;
}

function label(svg, x, y, text, anchor, kind = "") {
  add(svg, "text", { x, y, "text-anchor": anchor, class: kind }).textContent = text;
}

function path(points) {
  return points.map(([x, y], at) => `${at === 0 ? "M" : "L"}${x.toFixed(1)} ${y.toFixed(1)}`).join("");
}

/** Rounds up to 1, 2, 3, 5 or 8 times a power of ten. */
function nice(value) {
  const power = 10 ** Math.floor(Math.log10(value));
  return power * ([1, 2, 3, 5, 8, 10].find((step) => step * power >= value) ?? 10);
}

/** The labelled values of an axis: half the maximum, and the maximum. */
function ticks(most) {
  return [most / 2, most];
}

/** Formats a number: the larger it is, the fewer decimals. */
export function round(value) {
  if (value === 0) return "0";
  const digits = value >= 10 ? 0 : value >= 1 ? 1 : 2;
  return Number(value.toFixed(digits)).toLocaleString("en");
}
