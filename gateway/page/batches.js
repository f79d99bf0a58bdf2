// Draws the last batches: a column for each batch, a brick for each request, and a line at N.

const PITCH = 15; // distance between columns, in pixels
const BRICK = 11; // width of a brick, in pixels
const TALLEST = 13; // greatest height of a brick, in pixels
const TOP = 26; // space for the label of N, in pixels
const QUEUE = 64; // width of the queue of waiting requests, in pixels
const AT_A_TIME = 2; // maximum number of new columns per update, because the eye cannot follow more
const ENTER = 420; // milliseconds in which bricks move from the queue into their column
const SHIFT = 240; // milliseconds in which the older columns move aside
const KEPT = 120; // maximum number of columns
const RECENT = 512; // number of recent batches in which to search the visitor's own batch

const calm = matchMedia("(prefers-reduced-motion: reduce)");

export class Batches {
  #canvas;
  #columns = []; // drawn batches, latest first
  #next = []; // batches to draw next
  #recent = []; // recent batches, latest last
  #mine = null; // the batch to mark, until it is found
  #colours;
  #n = null;
  #scale = 8; // rows that fit into the height
  #waiting = 0;
  #moved = 0; // when the columns last started to move
  #painting = false;

  constructor(canvas) {
    this.#canvas = canvas;
    const repaint = () => {
      this.#colours = colours();
      this.#paint();
    };
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", repaint);
    new ResizeObserver(repaint).observe(canvas);
    repaint();
  }

  /** Removes all batches, because the page shows another model now. */
  clear() {
    this.#columns = [];
    this.#next = [];
    this.#recent = [];
    this.#mine = null;
    this.#n = null;
    this.#paint();
  }

  /** Adds new batches, and updates N and the number of waiting requests. Returns the number drawn. */
  add(batches, n, waiting) {
    this.#n = n;
    this.#waiting = waiting;
    const columns = batches.map((batch) => ({ ...batch, n }));
    this.#recent = [...this.#recent, ...columns].slice(-RECENT);
    const shown = spread(columns, AT_A_TIME);
    this.#next.push(...shown);
    this.#next.splice(0, Math.max(0, this.#next.length - 3 * AT_A_TIME));
    this.#find();
    this.#start();
    return shown.length;
  }

  /** Marks the batch that ran a request of this page, found by its rows and run time. */
  mark(batch) {
    this.#mine = batch;
    this.#find();
    this.#start();
  }

  /** Finds the batch to mark, which may not have arrived yet, and makes sure that it is drawn. */
  #find() {
    const same = ({ rows, run_ms }) => rows === this.#mine?.rows && Math.abs(run_ms - this.#mine.run) < 0.001;
    const found = this.#recent.find(same);
    if (!found) return;
    this.#mine = null;
    found.yours = true;
    if (!this.#next.includes(found) && !this.#columns.includes(found)) this.#next.push(found);
  }

  #start() {
    if (this.#painting) return;
    this.#painting = true;
    requestAnimationFrame((now) => this.#frame(now));
  }

  #frame(now) {
    if (this.#next.length > 0 && now - this.#moved >= SHIFT / 2) {
      this.#columns.unshift(Object.assign(this.#next.shift(), { entered: now }));
      this.#columns.length = Math.min(this.#columns.length, KEPT);
      this.#moved = now;
    }
    const isMoving = this.#paint(now);
    this.#painting = isMoving || this.#next.length > 0;
    if (this.#painting) requestAnimationFrame((later) => this.#frame(later));
  }

  /** Draws one frame; returns whether the animation continues. */
  #paint(now = performance.now()) {
    const { width, height, draw } = sized(this.#canvas);
    if (width === 0) return false;
    const highest = Math.max(this.#n ?? 0, ...this.#columns.slice(0, 90).map((column) => column.rows), 3);
    const wanted = highest * 1.04;
    this.#scale += (wanted - this.#scale) * (calm.matches ? 1 : 0.12);
    const unit = Math.min(TALLEST, (height - TOP - 2) / this.#scale);
    const view = { draw, width, height, unit, floor: height - 2, right: width - QUEUE, now };
    draw.clearRect(0, 0, width, height);
    line(draw, this.#colours.hair, 1, [[0, view.floor + 1.5], [width, view.floor + 1.5]]);
    const shift = calm.matches ? 1 : ease((now - this.#moved) / SHIFT);
    this.#columns.forEach((column, at) => {
      const x = view.right - BRICK - 10 - (at + shift - 1) * PITCH;
      if (x > -BRICK) this.#column(view, column, x);
    });
    this.#queue(view);
    this.#limit(view, shift);
    const isEntering = this.#columns.some((column) => now - column.entered < ENTER);
    return !calm.matches && (isEntering || Math.abs(wanted - this.#scale) > 0.02);
  }

  #column({ draw, unit, floor, right, now }, column, x) {
    const { rows, own_rows, release, yours, entered } = column;
    const gap = unit > 3.2 ? Math.min(2, unit * 0.28) : 0;
    const colour = this.#colours[release] ?? this.#colours.other;
    for (let row = 0; row < rows; row += 1) {
      const after = (now - entered) / ENTER - 0.4 * (row / rows);
      const arrived = calm.matches ? 1 : ease(after / 0.6);
      if (arrived === 0) break;
      const from = right + 14;
      draw.globalAlpha = arrived * (row < own_rows ? 1 : 0.32);
      draw.fillStyle = yours && row === own_rows - 1 ? this.#colours.yours : colour;
      brick(draw, from + (x - from) * arrived, floor - (row + 1) * unit + gap / 2, unit - gap);
    }
    draw.globalAlpha = 1;
    if (yours) this.#pointer(draw, x + BRICK / 2, floor - rows * unit - 5);
  }

  /** Draws a mark above the batch with a request of this page. */
  #pointer(draw, x, y) {
    draw.fillStyle = this.#colours.yours;
    draw.beginPath();
    draw.moveTo(x, y);
    draw.lineTo(x - 4, y - 7);
    draw.lineTo(x + 4, y - 7);
    draw.fill();
  }

  /** Draws the waiting requests as pale bricks. */
  #queue({ draw, unit, floor, right, height, width }) {
    const rows = Math.min(this.#waiting, Math.floor((height - TOP) / unit));
    const gap = unit > 3.2 ? Math.min(2, unit * 0.28) : 0;
    line(draw, this.#colours.hair, 1, [[right + 0.5, TOP - 8], [right + 0.5, floor + 1]]);
    draw.fillStyle = this.#colours.soft;
    draw.globalAlpha = 0.45;
    for (let row = 0; row < rows; row += 1) {
      brick(draw, right + 14, floor - (row + 1) * unit + gap / 2, unit - gap);
    }
    draw.globalAlpha = 1;
    draw.font = `12px ${getComputedStyle(this.#canvas).fontFamily}`;
    draw.textAlign = "right";
    draw.fillText("waiting", width, TOP - 14);
  }

  /** Draws N over time, as known at the arrival of each batch. */
  #limit({ draw, unit, floor, right }, shift) {
    if (this.#n === null) return;
    const y = (n) => Math.round(floor - n * unit) - 0.5;
    const points = [[right, y(this.#n)]];
    let before = this.#n;
    this.#columns.forEach((column, at) => {
      const x = right - BRICK / 2 - 10 - (at + shift - 1) * PITCH + PITCH / 2;
      if (column.n !== before) points.push([x, y(before)], [x, y(column.n)]);
      before = column.n;
    });
    points.push([0, y(before)]);
    draw.setLineDash([4, 3]);
    line(draw, this.#colours.ink, 1.25, points);
    draw.setLineDash([]);
    draw.fillStyle = this.#colours.ink;
    draw.textAlign = "right";
    draw.font = `600 13px ${getComputedStyle(this.#canvas).fontFamily}`;
    draw.fillText(`N = ${this.#n}`, right - 6, y(this.#n) - 6);
  }
}

/** At most `most` members of a list, evenly spread, including the last. */
function spread(list, most) {
  if (list.length <= most) return list;
  return Array.from({ length: most }, (_, at) => list[Math.floor(((at + 1) * list.length) / most) - 1]);
}

function ease(part) {
  const within = Math.min(1, Math.max(0, part));
  return 1 - (1 - within) ** 3;
}

function brick(draw, x, y, height) {
  draw.beginPath();
  draw.roundRect(x, y, BRICK, Math.max(1, height), Math.min(2, height / 3));
  draw.fill();
}

function line(draw, colour, thickness, points) {
  draw.strokeStyle = colour;
  draw.lineWidth = thickness;
  draw.beginPath();
  points.forEach(([x, y], at) => (at === 0 ? draw.moveTo(x, y) : draw.lineTo(x, y)));
  draw.stroke();
}

/** The size of a canvas in CSS pixels, and a context that draws in these units, sharp on any screen. */
export function sized(canvas) {
  const ratio = devicePixelRatio || 1;
  const { clientWidth: width, clientHeight: height } = canvas;
  const [w, h] = [Math.round(width * ratio), Math.round(height * ratio)];
  if (canvas.width !== w || canvas.height !== h) [canvas.width, canvas.height] = [w, h];
  const draw = canvas.getContext("2d");
  draw.setTransform(ratio, 0, 0, ratio, 0, 0);
  return { width, height, draw };
}

/** The colours of the page in the current light or dark scheme. */
export function colours() {
  const style = getComputedStyle(document.documentElement);
  const names = ["ink", "soft", "hair", "full", "drained", "other", "yours", "paper"];
  return Object.fromEntries(names.map((name) => [name, style.getPropertyValue(`--${name}`).trim()]));
}
