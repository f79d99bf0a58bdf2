// Holds the boards to what Grafana itself says a board is: to the types of @grafana/schema, where an
// unknown key or value is a compile error, and to the units of @grafana/data, where a wrong one would
// be shown as a suffix.
//
// Usage: node schema.mjs FOLDER     a folder with node_modules, made from package.json

import { readFileSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import { dirname, join, resolve } from "node:path";
import { fileURLToPath } from "node:url";

const boardsAt = join(dirname(fileURLToPath(import.meta.url)), "..");
const folder = resolve(process.argv[2]);
const require = createRequire(join(folder, "package.json"));
// It was written for browsers; newer Nodes have a navigator of their own that cannot be assigned.
Object.defineProperty(globalThis, "navigator", { value: { userAgent: "node", platform: "", languages: ["en"] } });
const ts = require("typescript");
const { getValueFormats } = require("@grafana/data");

const BOARDS = ["overview.json", "internals.json"];
const PANELS = { bargauge: "BarGauge", stat: "Stat", timeseries: "TimeSeries" };

/** What is wrong with the units of a board. */
function wrongUnits(name, board) {
  const known = new Set(getValueFormats().flatMap((group) => group.submenu).map(({ value }) => value));
  return board.panels
    .filter((panel) => panel.type !== "row" && !known.has(panel.fieldConfig.defaults.unit))
    .map((panel) => `${name}: "${panel.title}": no unit ${panel.fieldConfig.defaults.unit}`);
}

/** The boards as a program that compiles if they are as Grafana's types say. */
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
    // JSON has the values of enums, not their names.
    "type Plain<T> = T extends string ? `${T}` : T extends (infer U)[] ? Plain<U>[]",
    "  : T extends object ? { [K in keyof T]: Plain<T[K]> } : T;",
    ...literals,
    "",
  ].join("\n");
}

/** What the compiler says of it. */
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
// A check that finds nothing wrong with nonsense would find nothing at all.
const nonsense = { ...boards["overview.json"], titel: "?" };
if (compiled(program({ nonsense })).length === 0 || wrongUnits("", { panels: [{ fieldConfig: { defaults: { unit: "?" } } }] }).length === 0) {
  console.error("the check is blind");
  process.exit(1);
}
process.exit(wrong.length === 0 ? 0 : 1);
