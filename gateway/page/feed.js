// Asks the server what is new, four times a second, while the page is seen.

const EVERY = 250; // milliseconds
const PATIENCE = 3000;

let key = "";
let unlock = () => {};
let boot;
let seen = { model: null, version: null, batches: 0, samples: 0, isNew: true };

/** The key that is sent along, for servers that ask for one. */
export function useKey(text) {
  key = text;
  unlock();
}

/** Shows another model from now on; without one, the first there is. */
export function choose(model, version) {
  seen = { model, version, batches: 0, samples: 0, isNew: true };
}

/** Asks the server, with the key. */
export async function ask(path, options = {}) {
  const headers = { ...options.headers, ...(key && { "x-api-key": key }) };
  const signal = AbortSignal.timeout(options.patience ?? PATIENCE);
  return fetch(path, { cache: "no-store", ...options, headers, signal });
}

/**
 * Tells `listener` what comes: `news(feed, isNew)`, where `isNew` says that all numbers begin anew;
 * `locked()`, when a key is wanted; and `lost()`, when there is no answer.
 */
export async function follow(listener) {
  for (;;) {
    if (document.hidden) {
      await new Promise((seen) => document.addEventListener("visibilitychange", seen, { once: true }));
    }
    const began = performance.now();
    await look(listener);
    const left = EVERY - (performance.now() - began);
    await new Promise((due) => setTimeout(due, Math.max(left, EVERY / 4)));
  }
}

async function look(listener) {
  const asked = seen;
  const query = new URLSearchParams({ batches: asked.batches, samples: asked.samples });
  if (asked.model !== null) {
    query.set("model", asked.model);
    query.set("version", asked.version);
  }
  let feed;
  try {
    const answer = await ask(`page/feed?${query}`);
    if (answer.status === 401) {
      listener.locked();
      return new Promise((unlocked) => { unlock = unlocked; });
    }
    if (!answer.ok) return listener.lost();
    feed = await answer.json();
  } catch {
    return listener.lost();
  }
  if (asked !== seen) return; // Another model was chosen meanwhile.
  const isNew = feed.boot !== boot || seen.isNew;
  boot = feed.boot;
  seen.isNew = false;
  if (feed.shown) {
    seen.batches = feed.shown.batches.count;
    seen.samples = feed.shown.samples.count;
  }
  listener.news(feed, isNew);
}
