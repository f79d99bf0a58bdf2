// A pad to draw a digit, for the model that recognizes handwritten digits of eight by eight pixels.

import { send } from "./feed.js";
import { round } from "./charts.js";
import { colours } from "./batches.js";

const SIDE = 32; // dots per side of the pad; a pixel counts four by four dots, as in the training data
const PEN = 1.7; // radius of the pen, in dots
const AFTER = 450; // milliseconds from lifting the pen to sending the digit

// Digits from the test data, not the training data. One character per pixel, 0 to g for 0 to 16.
const READY = [
  "008fgb0002ga4e4006g208800ac00b6009b00f6008c07f1002f7f90000agc100",
  "00006a000000ef00000agg00007ggf0003f7fa000000db000000f90000008f00",
  "04fb100008gg4000026d800000085000000b4000005g000002dgdc6005gfgc30",
  "00bgga001eg9bg101e30ce000006g70000008g5000000ca000245ed000bggg40",
  "0005f200000ea20000ce4f0006g49f800efbfg9007ffgb000003g6000006g200",
  "05cdgg200bgf840008eb100008gge0000166g0000005g300015fd00004fg2000",
  "000ca000004f700000f4000001g7100004gegd1001g01ab000e918c0002agg50",
  "00age10000egg7000015g700002agb6007ggfc700bafa000006g200000d90000",
  "004bf20002g9890004f05g3000bbg900004gf10000d96c1000f30950005ddc50",
  "00017ce1001d84d000ag9fb001gffg3000b93e00000059000000780000008600",
];

const RELEASES = {
  full: "it was full",
  drained: "no more requests were waiting",
  linger: "its linger time was over",
  shape: "the next requests had another shape",
  oversize: "this request alone exceeds N",
  suspect: "a worker died with this request before",
};

const part = (id) => document.getElementById(id);

/** Whether a model takes a single input in the format of this pad. */
export function takesDigits(inputs) {
  const [{ name, datatype, shape } = {}] = inputs;
  return inputs.length === 1 && name === "pixels" && datatype === "FP32" && String(shape) === "-1,64";
}

/** The pad. It calls `answered(batch)` with the batch in which a digit ran. */
export class Pad {
  model = "";
  #answered;
  #strokes = [];
  #pixels = null;
  #due;

  constructor(answered) {
    this.#answered = answered;
    part("probabilities").replaceChildren(...READY.map((_, digit) => bar(digit)));
    document.querySelector(".ready").replaceChildren(...READY.map((text, digit) => this.#ready(text, digit)));
    part("clear").addEventListener("click", () => this.#clear());
    part("again").addEventListener("click", () => this.#send());
    this.#listen(part("pad"));
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.#paint());
    this.#paint();
  }

  #ready(text, digit) {
    const button = document.createElement("button");
    button.type = "button";
    button.setAttribute("aria-label", `sample digit ${digit}`);
    const canvas = button.appendChild(document.createElement("canvas"));
    const pixels = [...text].map((character) => parseInt(character, 17));
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => pixelate(canvas, pixels));
    pixelate(canvas, pixels);
    button.addEventListener("click", () => {
      this.#strokes = [];
      this.#pixels = pixels;
      this.#paint();
      this.#send();
    });
    return button;
  }

  #listen(pad) {
    const at = ({ offsetX, offsetY }) => [(offsetX / pad.clientWidth) * SIDE, (offsetY / pad.clientHeight) * SIDE];
    pad.addEventListener("pointerdown", (event) => {
      pad.setPointerCapture(event.pointerId);
      clearTimeout(this.#due);
      this.#strokes.push([at(event)]);
      this.#drawn();
    });
    pad.addEventListener("pointermove", (event) => {
      if (!pad.hasPointerCapture(event.pointerId)) return;
      this.#strokes.at(-1)?.push(at(event));
      this.#drawn();
    });
    pad.addEventListener("lostpointercapture", () => {
      this.#due = setTimeout(() => this.#send(), AFTER);
    });
  }

  #drawn() {
    this.#pixels = counted(this.#strokes);
    this.#paint();
  }

  #clear() {
    clearTimeout(this.#due);
    this.#strokes = [];
    this.#pixels = null;
    part("answer").textContent = "?";
    part("trip").textContent = "The digit is sent when you lift the pen.";
    show(READY.map(() => 0));
    this.#paint();
  }

  #paint() {
    const pad = part("pad");
    const draw = pad.getContext("2d");
    draw.clearRect(0, 0, pad.width, pad.height);
    part("again").disabled = this.#pixels === null;
    part("pixels").hidden = this.#strokes.length === 0;
    pixelate(part("pixels"), this.#pixels ?? Array(64).fill(0));
    if (this.#strokes.length === 0 && this.#pixels) return blow(draw, this.#pixels);
    draw.lineWidth = (2 * PEN * pad.width) / SIDE;
    draw.lineCap = draw.lineJoin = "round";
    draw.strokeStyle = colours().ink;
    for (const stroke of this.#strokes) {
      draw.beginPath();
      [stroke[0], ...stroke].forEach(([x, y]) => draw.lineTo((x * pad.width) / SIDE, (y * pad.width) / SIDE));
      draw.stroke();
    }
  }

  async #send() {
    if (!this.#pixels) return;
    const input = { name: "pixels", datatype: "FP32", shape: [1, 64], data: this.#pixels };
    const began = performance.now();
    let response;
    try {
      response = await send(`v2/models/${encodeURIComponent(this.model)}/infer`, {
        method: "POST",
        timeout: 30000,
        headers: { "content-type": "application/json", "x-batch": "tell" },
        body: JSON.stringify({ inputs: [input] }),
      });
    } catch {
      part("trip").textContent = "No response: the server cannot be reached.";
      return;
    }
    const took = performance.now() - began;
    const body = await response.json();
    if (!response.ok) {
      part("trip").textContent = `The request failed: ${body.error}`;
      return;
    }
    const probabilities = body.outputs[0].data;
    part("answer").textContent = show(probabilities);
    const batch = read(response.headers.get("x-batch") ?? "");
    part("trip").textContent = trip(batch, took);
    this.#answered(batch);
  }
}

/** Reads a header such as `rows=17, release=full, run-ms=6.2`. */
function read(header) {
  const fields = Object.fromEntries(header.split(", ").map((field) => field.split("=")));
  const number = (name) => Number(fields[name]);
  const [queue, wait, run] = ["queue-ms", "wait-ms", "run-ms"].map(number);
  return { rows: number("rows"), release: fields.release, waited: queue + wait, run };
}

function trip({ rows, release, waited, run }, took) {
  const others = rows === 1 ? "alone" : `with ${rows - 1} other${rows === 2 ? "" : "s"}`;
  const why = RELEASES[release] ?? release;
  return `The digit ran ${others} in a batch that left because ${why}: waited ${round(waited)} ms, ` +
    `ran ${round(run)} ms, round trip ${round(took)} ms.`;
}

/** Shows the probability of each digit; returns the most probable digit. */
function show(probabilities) {
  const best = probabilities.indexOf(Math.max(...probabilities));
  [...part("probabilities").children].forEach((item, digit) => {
    const share = probabilities[digit];
    item.className = digit === best && share > 0 ? "best" : "";
    item.firstChild.style.height = `${Math.round(share * 66)}px`;
    item.title = `${digit}: ${round(share * 100)} %`;
  });
  return `${best}`;
}

function bar(digit) {
  const item = document.createElement("li");
  item.append(document.createElement("i"), `${digit}`);
  return item;
}

/** Converts strokes to pixels as in the training data: scaled to the pad, counting inked dots. */
function counted(strokes) {
  const points = strokes.flat();
  const [xs, ys] = [points.map(([x]) => x), points.map(([, y]) => y)];
  const [left, top] = [Math.min(...xs), Math.min(...ys)];
  const [width, height] = [Math.max(...xs) - left, Math.max(...ys) - top];
  const room = SIDE - 2 * PEN;
  const scale = Math.min(room / Math.max(height, 8), room / Math.max(width, 8));
  const place = ([x, y]) => [
    (x - left - width / 2) * scale + SIDE / 2,
    (y - top - height / 2) * scale + SIDE / 2,
  ];
  const placed = strokes.map((stroke) => stroke.map(place));
  const pixels = Array(64).fill(0);
  for (let y = 0; y < SIDE; y += 1) {
    for (let x = 0; x < SIDE; x += 1) {
      if (isInked([x + 0.5, y + 0.5], placed)) pixels[(y >> 2) * 8 + (x >> 2)] += 1;
    }
  }
  return pixels;
}

function isInked(dot, strokes) {
  const near = (stroke) => stroke.some((to, at) => distance(dot, stroke[Math.max(0, at - 1)], to) <= PEN);
  return strokes.some(near);
}

/** The distance from a point to a line segment. */
function distance([x, y], [x0, y0], [x1, y1]) {
  const [dx, dy] = [x1 - x0, y1 - y0];
  const along = ((x - x0) * dx + (y - y0) * dy) / (dx * dx + dy * dy || 1);
  const part = Math.min(1, Math.max(0, along));
  return Math.hypot(x - x0 - part * dx, y - y0 - part * dy);
}

function pixelate(canvas, pixels) {
  [canvas.width, canvas.height] = [8, 8];
  paint(canvas.getContext("2d"), pixels, 1);
}

function blow(draw, pixels) {
  paint(draw, pixels, draw.canvas.width / 8);
}

function paint(draw, pixels, side) {
  draw.fillStyle = colours().ink;
  pixels.forEach((ink, at) => {
    draw.globalAlpha = ink / 16;
    draw.fillRect((at % 8) * side, (at >> 3) * side, side, side);
  });
  draw.globalAlpha = 1;
}
