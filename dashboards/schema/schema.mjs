// Checks the boards against Grafana's own definitions: the types of @grafana/schema, where an unknown
// key or value is a compile error, and the units of @grafana/data, where Grafana would show an unknown
// unit as a suffix.
//
// Usage: node schema.mjs FOLDER     FOLDER has the node_modules of package.json

import { readFileSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import { dirname, join, resolve } from "node:path";
import { fileURLToPath } from "node:url";

const boardsAt = join(dirname(fileURLToPath(import.meta.url)), "..");
const folder = resolve(process.argv[2]);
const require = createRequire(join(folder, "package.json"));
// Grafana's packages expect a browser. Newer versions of Node have a read-only `navigator`.
Object.defineProperty(globalThis, "navigator", { value: { userAgent: "node", platform: "", languages: ["en"] } });
const ts = require("typescript");
const { getValueFormats } = require("@grafana/data");

const BOARDS = ["overview.json", "internals.json"];
const PANELS = { bargauge: "BarGauge", stat: "Stat", timeseries: "TimeSeries" };

/** Panels of a board with unknown units. */
function wrongUnits(name, board) {
  const known = new Set(getValueFormats().flatMap((group) => group.submenu).map(({ value }) => value));
  return board.panels
    .filter((panel) => panel.type !== "row" && !known.has(panel.fieldConfig.defaults.unit))
    .map((panel) => `${name}: "${panel.title}": no unit ${panel.fieldConfig.defaults.unit}`);
}

/** The boards as a TypeScript program that compiles only if they match Grafana's types. */
function program(boards) {
  const imports = Object.entries(PANELS).map(([type, name]) =>
    `import type * as ${type} from "@grafana/schema/dist/esm/raw/composable/${type}/panelcfg/x/${name}PanelCfg_types.gen";`,
  );
  const literals = Object.values(boards).flatMap((board, b) => [
    `const board${b}: Plain<Dashboard> = ${JSON.stringify(board)};`,
    ...board.panels.filter((panel) => panel.type in PANELS).flatMap((panel) => [
      `const options${b}_${panel.id}: Plain<Partial<${panel.type}.Options>> = ${JSON.stringify(panel.options)};`,
      ...(panel.type === "timeseries"
        ? [`const custom${b}_${panel.id}: Plain<Partial<timeseries.FieldConfig>> = ${JSON.stringify(panel.fieldConfig.defaults.custom)};`]
        : []),
    ]),
  ]);
  return [
    `import type { Dashboard } from "@grafana/schema";`,
    ...imports,
    // In JSON, enums appear as their values.
    "type Plain<T> = T extends string ? `${T}` : T extends (infer U)[] ? Plain<U>[]",
    "  : T extends object ? { [K in keyof T]: Plain<T[K]> } : T;",
    ...literals,
    "",
  ].join("\n");
}

/** Errors of the TypeScript compiler. */
function compiled(text) {
  const file = join(folder, "boards.ts");
  writeFileSync(file, text);
  const options = {
    noEmit: true, strict: true, skipLibCheck: true, types: [], target: ts.ScriptTarget.ESNext,
    module: ts.ModuleKind.ESNext, moduleResolution: ts.ModuleResolutionKind.Bundler,
  };
  return ts.getPreEmitDiagnostics(ts.createProgram([file], options)).map((found) => {
    const line = found.file?.getLineAndCharacterOfPosition(found.start).line;
    return `line ${line}: ${ts.flattenDiagnosticMessageText(found.messageText, "\n")}`;
  });
}

const boards = Object.fromEntries(BOARDS.map((name) => [name, JSON.parse(readFileSync(join(boardsAt, name)))]));
const wrong = [...Object.entries(boards).flatMap(([name, board]) => wrongUnits(name, board)), ...compiled(program(boards))];
wrong.forEach((each) => console.error(each));
// The check itself must find errors in an invalid board.
const nonsense = { ...boards["overview.json"], titel: "?" };
if (compiled(program({ nonsense })).length === 0 || wrongUnits("", { panels: [{ fieldConfig: { defaults: { unit: "?" } } }] }).length === 0) {
  console.error("the check accepts an invalid board");
  process.exit(1);
}
process.exit(wrong.length === 0 ? 0 : 1);
