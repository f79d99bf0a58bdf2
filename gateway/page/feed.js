// Polls the server for new data four times per second while the page is visible.

const EVERY = 250; // milliseconds between polls
const TIMEOUT = 3000; // milliseconds

let key = "";
let unlock = () => {};
let boot;
let seen = { model: null, version: null, batches: 0, samples: 0, isNew: true };

/** Sets the API key or token to send with every request, for servers that require one. */
export function useKey(text) {
  key = text;
  unlock();
}

/** Switches the feed to another model. */
export function choose(model, version) {
  seen = { model, version, batches: 0, samples: 0, isNew: true };
}

/** Sends a request to the server, with the API key or token. */
export async function send(path, options = {}) {
  const headers = { ...options.headers, ...(key && { authorization: `Bearer ${key}` }) };
  const signal = AbortSignal.timeout(options.timeout ?? TIMEOUT);
  return fetch(path, { cache: "no-store", ...options, headers, signal });
}

/**
 * Polls forever and calls `listener`: `news(feed, isNew)` for new data, where `isNew` means that all
 * numbering starts again; `locked()` if the server requires a key; `lost()` if it does not respond.
 */
export async function follow(listener) {
  for (;;) {
    if (document.hidden) {
      await new Promise((seen) => document.addEventListener("visibilitychange", seen, { once: true }));
    }
    const began = performance.now();
    await poll(listener);
    const left = EVERY - (performance.now() - began);
    await new Promise((due) => setTimeout(due, Math.max(left, EVERY / 4)));
  }
}

async function poll(listener) {
  const polled = seen;
  const query = new URLSearchParams({ batches: polled.batches, samples: polled.samples });
  if (polled.model !== null) {
    query.set("model", polled.model);
    query.set("version", polled.version);
  }
  let feed;
  try {
    const response = await send(`page/feed?${query}`);
    if (response.status === 401) {
      listener.locked();
      return new Promise((unlocked) => { unlock = unlocked; });
    }
    if (!response.ok) return listener.lost();
    feed = await response.json();
  } catch {
    return listener.lost();
  }
  if (polled !== seen) return; // The visitor has chosen another model meanwhile.
  const isNew = feed.boot !== boot || seen.isNew;
  boot = feed.boot;
  seen.isNew = false;
  if (feed.shown) {
    seen.batches = feed.shown.batches.count;
    seen.samples = feed.shown.samples.count;
  }
  listener.news(feed, isNew);
}
