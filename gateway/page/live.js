// The live page: what the feed tells goes to the words, the batches and the charts; what people
// choose goes back.

import { Batches } from "./batches.js";
import { curve, latency, queue, round } from "./charts.js";
import { Pad, takesDigits } from "./digit.js";
import { ask, choose, follow, useKey } from "./feed.js";

const CALLERS = [0, 1, 8, 32, 128];
const TARGETS = [null, 10, 25, 50, 100, 250];
const RENEW = 2000; // milliseconds after which the server hears again what is wanted
const SECOND = 5; // samples

const TROUBLE = {
  no_models: "no worker has announced a model yet",
  no_such_model: "no such model is known here",
  no_workers: "no worker serves this model: requests are refused",
  queue_away: "Redis is out of reach: what was accepted is kept, what is new is refused",
  draining: "this gateway is about to end",
};
const OTHER = {
  linger: "had lingered for others",
  shape: "the others had another shape",
  oversize: "one request larger than N",
  suspect: "one request that saw a worker die",
};

const part = (id) => document.getElementById(id);
const batches = new Batches(part("batches"));
let model = null; // { model, version }
let samples = [];
let seen = { batches: 0, shown: 0 };
const wish = { callers: 0, slo: null, isMine: false };
let play = null;

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
    state("bad", "a key is wanted");
    part("key").hidden = false;
  },
  lost() {
    document.body.classList.add("lost");
    state("bad", "no answer; asking again");
  },
});

setInterval(() => {
  if (wish.isMine && !document.hidden) say();
}, RENEW);

part("key").addEventListener("submit", (event) => {
  event.preventDefault();
  useKey(part("key-text").value);
});

part("model").addEventListener("change", ({ target }) => {
  model = JSON.parse(target.value);
  choose(model.model, model.version);
  forget();
  if (wish.isMine) say();
});

function forget() {
  samples = [];
  seen = { batches: 0, shown: 0 };
  batches.clear();
}

function state(tone, words) {
  const place = part("state");
  if (place.textContent === words && place.dataset.tone === tone) return;
  place.dataset.tone = tone;
  place.textContent = words;
}

/** What there is to choose from; one that is gone stays chosen, and the state says so. */
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

/** What is to be seen, in a sentence. */
function story({ batches: { last } }, n, trouble) {
  if (trouble === "no_workers" || n === null) return lead("Nobody runs this model just now.");
  if (last.length === 0) {
    const wasBusy = samples.slice(-SECOND).some(({ answered }) => answered > 0);
    if (!wasBusy) lead(`Idle. A batch may hold ${n} request${n === 1 ? "" : "s"}.`);
    return;
  }
  const rows = last.reduce((sum, batch) => sum + batch.rows, 0) / last.length;
  const full = last.filter(({ release }) => release === "full").length / last.length;
  const single = rows < 1.5;
  const size = single ? "One request" : `${round(rows)} requests`;
  if (full > 0.6) return lead(`${size} a batch: N allows no more.`);
  return lead(`${size} a batch: ${single ? "nobody else waits" : "all that waited"}.`);
}

function lead(words) {
  if (part("story-lead").textContent !== words) part("story-lead").textContent = words;
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
  const who = live === 1 ? "1 worker" : `${live} workers`;
  const wants = wanted === null ? "" : `; the load wants ${wanted}`;
  return `${who}, good for ${round(capacity)} rows/s within the target${wants}.`;
}

/** The knobs, where the server offers them; else the words for where they are. */
function offer(feed) {
  const isNew = play === null && feed.play !== null;
  play = feed.play;
  part("play").hidden = play === null;
  if (isNew) {
    knob("callers", CALLERS.filter((count) => count <= play.most_callers), (count) => `${count || "none"}`, (count) => {
      wish.callers = count;
    });
    knob("target", TARGETS, (ms) => (ms === null ? "its own" : `${ms}`), (ms) => {
      wish.slo = ms;
    });
  }
  if (play) {
    if (!wish.isMine) [wish.callers, wish.slo] = [play.callers, play.slo_ms];
    press("callers", wish.callers);
    press("target", wish.slo);
  }
  elsewhere(feed);
}

function knob(name, values, text, chosen) {
  const choices = document.createElement("div");
  choices.className = "choices";
  for (const value of values) {
    const label = choices.appendChild(document.createElement("label"));
    const input = label.appendChild(document.createElement("input"));
    Object.assign(input, { type: "radio", name, value: `${value}` });
    label.appendChild(document.createElement("span")).textContent = text(value);
    input.addEventListener("change", () => {
      chosen(value);
      wish.isMine = true;
      say();
    });
  }
  part(name).querySelector(".choices")?.remove();
  part(name).append(choices);
}

function press(name, value) {
  for (const input of part(name).querySelectorAll("input")) input.checked = input.value === `${value}`;
}

/** Tells the server what is wanted; it forgets when it is not told again. */
async function say() {
  const query = new URLSearchParams({ model: model.model, version: model.version, callers: wish.callers });
  if (wish.slo !== null) query.set("slo_ms", wish.slo);
  try {
    await ask(`page/play?${query}`, { method: "POST", headers: { "x-live-page": "1" } });
  } catch {
    // The feed says that there is no answer.
  }
  if (wish.callers === 0 && wish.slo === null) wish.isMine = false;
}

function elsewhere({ play, may_ask, clients_port, shown }) {
  const place = part("elsewhere");
  place.hidden = play !== null || !shown;
  if (place.hidden || place.childElementCount > 0) return;
  const code = document.createElement("code");
  if (!may_ask && clients_port !== null) {
    const link = document.createElement("a");
    link.href = `http://${location.hostname}:${clients_port}/`;
    link.textContent = link.href;
    place.append("This is the admin port, for watching only. Try the models at ", link, ".");
    return;
  }
  code.textContent = `batchfleet load --model ${model.model} --users 100`;
  place.append("To see it under load: ", code);
}
