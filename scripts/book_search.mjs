#!/usr/bin/env node
// Searches the built book, as its own search field does, for every flag, chart value, field, metric and error code of the
// reference. Fails if the results that a reader sees have no page that defines the term.
//
// Usage: book_search.mjs BOOK DOCS      such as: book_search.mjs target/book docs
import { readFileSync, readdirSync } from "node:fs";
import vm from "node:vm";

const [book, docs] = process.argv.slice(2);
const PAGES = ["flags", "settings", "chart", "modelfleet", "metrics", "errors"];

/** Runs a script of the book whose name begins with `beginning`. */
function run(beginning, page) {
  const name = readdirSync(book).find((name) => name.startsWith(beginning) && name.endsWith(".js"));
  vm.runInContext(readFileSync(`${book}/${name}`, "utf8"), page);
}

/** Returns the terms that the tables of a page define: the code in their first column, without arguments. */
function terms(page) {
  const text = readFileSync(`${docs}/reference/${page}.md`, "utf8");
  return [...text.matchAll(/^\| `([^`\s={]+)/gm)].map((match) => match[1]);
}

const page = vm.createContext({ window: { search: {} } });
run("elasticlunr", page);
run("searchindex", page);
const search = page.window.search;
const index = page.elasticlunr.Index.load(search.index);

const definitions = new Map();
for (const name of PAGES) {
  for (const term of terms(name)) definitions.set(term, [...(definitions.get(term) ?? []), `reference/${name}.html`]);
}
const missing = [...definitions].filter(([term, pages]) => {
  const shown = index.search(term, search.search_options).slice(0, search.results_options.limit_results);
  return !shown.some(({ ref }) => pages.some((address) => search.doc_urls[ref].startsWith(address)));
});
for (const [term, pages] of missing) console.error(`a search for ${term} does not find ${pages.join(" or ")}`);
console.log(`a search finds ${definitions.size - missing.length} of ${definitions.size} terms of the reference`);
process.exit(missing.length === 0 && definitions.size > 0 ? 0 : 1);
