// The live page: shows the data of the feed as texts, batches and charts, and sends the visitor's
// choices to the server.

import { Batches } from "./batches.js";
import { curve, latency, queue, round } from "./charts.js";
import { Pad, takesDigits } from "./digit.js";
import { choose, follow, send, useKey } from "./feed.js";

const CALLERS = [0, 1, 8, 32, 128];
const TARGETS = [null, 10, 25, 50, 100, 250];
const RENEW = 2000; // milliseconds between renewals of the controls; the server resets them after 6 s
const SECOND = 5; // samples

const TROUBLE = {
  no_models: "no worker has announced a model yet",
  no_such_model: "this gateway knows no such model",
  no_workers: "no worker serves this model: requests are refused",
  queue_away: "Redis cannot be reached: accepted requests are kept, new ones are refused",
  draining: "this gateway is shutting down",
};
const OTHER = {
  linger: "linger time over",
  shape: "next requests had another shape",
  oversize: "one request larger than N",
  suspect: "one request that may have killed a worker",
};

const part = (id) => document.getElementById(id);
const batches = new Batches(part("batches"));
let model = null; // { model, version }
let samples = [];
let seen = { batches: 0, shown: 0 };
const chosen = { callers: 0, slo: null, isMine: false };
let controls = null;

const pad = new Pad((batch) => {
  batches.mark(batch);
  part("legend-yours").hidden = false;
});

follow({
  news(feed, isNew) {
    document.body.classList.remove("lost");
    part("key").hidden = true;
    if (isNew) forget();
    choices(feed);
    const name = feed.trouble ? "bad" : "good";
    state(name, feed.trouble ? TROUBLE[feed.trouble] : "serving");
    offer(feed);
    if (feed.shown) show(feed);
  },
  locked() {
    state("bad", "API key required");
    part("key").hidden = false;
  },
  lost() {
    document.body.classList.add("lost");
    state("bad", "no response; retrying");
  },
});

setInterval(() => {
  if (chosen.isMine && !document.hidden) control();
}, RENEW);

part("key").addEventListener("submit", (event) => {
  event.preventDefault();
  useKey(part("key-text").value);
});

part("model").addEventListener("change", ({ target }) => {
  model = JSON.parse(target.value);
  choose(model.model, model.version);
  forget();
  if (chosen.isMine) control();
});

function forget() {
  samples = [];
  seen = { batches: 0, shown: 0 };
  batches.clear();
}

function state(tone, text) {
  const place = part("state");
  if (place.textContent === text && place.dataset.tone === tone) return;
  place.dataset.tone = tone;
  place.textContent = text;
}

/** Lists the models. A chosen model that has disappeared stays chosen, and the state shows why. */
function choices({ models }) {
  const list = part("model");
  const values = models.map((name) => JSON.stringify(name));
  if (model === null && models.length > 0) {
    model = models[0];
    choose(model.model, model.version);
  }
  if ([...list.options].map((option) => option.value).join() === values.join()) return;
  const several = (name) => models.filter((other) => other.model === name).length > 1;
  const option = (name, at) => {
    const text = several(name.model) ? `${name.model}, version ${name.version}` : name.model;
    return new Option(text, values[at], false, values[at] === JSON.stringify(model));
  };
  list.replaceChildren(...models.map(option));
}

function show({ shown, may_ask, trouble }) {
  const { batching } = shown;
  const worker = slowest(batching.by_worker);
  samples = [...samples, ...shown.samples.last].slice(-300);
  const n = batching.n.most;
  const added = batches.add(shown.batches.last, n, batching.queue_depth);
  numbers(shown, batching);
  story(shown, n, trouble);
  legend(shown, added);
  part("n").textContent = n ?? "–";
  part("why").textContent = batching.why.replace(/^N = \d+: /, "").replace(/^./, (first) => first.toUpperCase()) + ".";
  part("workers").textContent = workers(batching);
  part("units").hidden = !worker?.units_by_length?.length;
  part("units").textContent = units(worker);
  curve(part("curve"), worker);
  queue(part("queue"), samples);
  latency(part("latency"), samples, worker?.slo_ms);
  part("digit").hidden = !(may_ask && takesDigits(shown.inputs));
  pad.model = batching.model;
}

function slowest(members) {
  return members.reduce((least, one) => (least && least.capacity <= one.capacity ? least : one), null);
}

function numbers(shown, { queue_depth }) {
  const last = samples.slice(-SECOND);
  const late = last.map(({ p99_ms }) => p99_ms).filter((ms) => ms !== null);
  part("in-flight").textContent = shown.in_flight.toLocaleString("en");
  part("waiting").textContent = queue_depth.toLocaleString("en");
  const rate = (last.reduce((sum, { answered }) => sum + answered, 0) * SECOND) / Math.max(1, last.length);
  part("rate").textContent = round(rate);
  part("p99").textContent = late.length > 0 ? `${round(Math.max(...late))} ms` : "–";
}

/** Describes the last batches in a sentence. */
function story({ batches: { last } }, n, trouble) {
  if (trouble === "no_workers" || n === null) return lead("No worker runs this model now.");
  if (last.length === 0) {
    const wasBusy = samples.slice(-SECOND).some(({ answered }) => answered > 0);
    if (!wasBusy) lead(`Idle. A batch may have up to ${n} request${n === 1 ? "" : "s"}.`);
    return;
  }
  const rows = last.reduce((sum, batch) => sum + batch.rows, 0) / last.length;
  const full = last.filter(({ release }) => release === "full").length / last.length;
  const single = rows < 1.5;
  const size = single ? "One request" : `${round(rows)} requests`;
  if (full > 0.6) return lead(`${size} per batch: N allows no more.`);
  return lead(`${size} per batch: ${single ? "no others are waiting" : "all that were waiting"}.`);
}

function lead(text) {
  if (part("story-lead").textContent !== text) part("story-lead").textContent = text;
}

function legend({ batches: { count, last } }, added) {
  const other = last.map(({ release }) => OTHER[release]).find(Boolean);
  if (other) {
    part("legend-other").hidden = false;
    part("legend-other").lastElementChild.textContent = other;
  }
  if (last.some(({ rows, own_rows }) => own_rows < rows)) part("legend-foreign").hidden = false;
  const came = seen.batches === 0 ? last.length : count - seen.batches;
  seen = { batches: count, shown: added };
  if (came > 0) {
    part("shown").textContent = came > added ? `1 of ${round(came / added)} batches is drawn` : "";
  }
}

function workers({ workers: { live, wanted }, capacity }) {
  const count = live === 1 ? "1 worker" : `${live} workers`;
  const needed = wanted === null ? "" : `; the load needs ${wanted}`;
  return `${count}, capacity ${round(capacity)} rows/s within the latency target${needed}.`;
}

/** Describes what rows cost that differ in length, in units, and how much of what runs is padding. */
function units(worker) {
  if (!worker?.units_by_length?.length) return "";
  const { n, row_units: row, units_by_length: lengths, padding_share: padding } = worker;
  const [length, most] = lengths.at(-1);
  const share = padding > 0 ? ` Under full load ${round(100 * padding)} % of what runs is padding.` : "";
  return (
    `Rows are counted in units by their length: a row of the usual length costs ${round(row)}, N rows cost ` +
    `${round(n * row)}, and a row of length ${length} costs ${round(most)}.${share}`
  );
}

/** Shows the controls if this page may set them; otherwise shows where to find them. */
function offer(feed) {
  const isNew = controls === null && feed.play !== null;
  controls = feed.play;
  part("controls").hidden = controls === null;
  if (isNew) {
    const counts = CALLERS.filter((count) => count <= controls.most_callers);
    knob("callers", counts, (count) => `${count || "none"}`, (count) => {
      chosen.callers = count;
    });
    knob("target", TARGETS, (ms) => (ms === null ? "default" : `${ms}`), (ms) => {
      chosen.slo = ms;
    });
  }
  if (controls) {
    if (!chosen.isMine) [chosen.callers, chosen.slo] = [controls.callers, controls.slo_ms];
    press("callers", chosen.callers);
    press("target", chosen.slo);
  }
  elsewhere(feed);
}

function knob(name, values, text, apply) {
  const choices = document.createElement("div");
  choices.className = "choices";
  for (const value of values) {
    const label = choices.appendChild(document.createElement("label"));
    const input = label.appendChild(document.createElement("input"));
    Object.assign(input, { type: "radio", name, value: `${value}` });
    label.appendChild(document.createElement("span")).textContent = text(value);
    input.addEventListener("change", () => {
      apply(value);
      chosen.isMine = true;
      control();
    });
  }
  part(name).querySelector(".choices")?.remove();
  part(name).append(choices);
}

function press(name, value) {
  for (const input of part(name).querySelectorAll("input")) input.checked = input.value === `${value}`;
}

/** Sets or renews the controls on the server, which resets them if no page renews them. */
async function control() {
  const query = new URLSearchParams({ model: model.model, version: model.version, callers: chosen.callers });
  if (chosen.slo !== null) query.set("slo_ms", chosen.slo);
  try {
    await send(`page/play?${query}`, { method: "POST", headers: { "x-live-page": "1" } });
  } catch {
    // The feed shows that the server does not respond.
  }
  if (chosen.callers === 0 && chosen.slo === null) chosen.isMine = false;
}

/** On a page without controls, shows where to send requests. */
function elsewhere({ may_ask, clients_port, clients_scheme, shown }) {
  const place = part("elsewhere");
  place.hidden = controls !== null || !shown;
  if (place.hidden || place.childElementCount > 0) return;
  const code = document.createElement("code");
  if (!may_ask && clients_port !== null) {
    const link = document.createElement("a");
    link.href = `${clients_scheme}://${location.hostname}:${clients_port}/`;
    link.textContent = link.href;
    place.append("The admin port only shows data. Try the models at ", link, ".");
    return;
  }
  code.textContent = `batchfleet load --model ${model.model} --users 100`;
  place.append("To see the model under load: ", code);
}
