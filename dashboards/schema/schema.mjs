// Checks the boards against Grafana's own definitions: the types of @grafana/schema, where an unknown
// key or value is a compile error, and the units of @grafana/data, where Grafana would show an unknown
// unit as a suffix. Both are those of the newest Grafana and of 8.3, the oldest that the boards support.
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
const formats = ["@grafana/data", "grafana-data-8.3"].map((name) => [name, require(name).getValueFormats()]);

const BOARDS = ["overview.json", "internals.json"];
const PANELS = { bargauge: "BarGauge", stat: "Stat", timeseries: "TimeSeries" };

// What Grafana 8.3 does not know and ignores: it shows every legend, and sorts no tooltip.
const IGNORED = { legend: "showLegend", tooltip: "sort" };

/** Panels of a board with units that a Grafana does not know. */
function wrongUnits(name, board) {
  return formats.flatMap(([grafana, groups]) => {
    const known = new Set(groups.flatMap((group) => group.submenu ?? group.formats).map((unit) => unit.value ?? unit.id));
    return board.panels
      .filter((panel) => panel.type !== "row" && !known.has(panel.fieldConfig.defaults.unit))
      .map((panel) => `${name}: "${panel.title}": ${grafana} has no unit ${panel.fieldConfig.defaults.unit}`);
  });
}

// In JSON, enums appear as their values.
const PLAIN = ["type Plain<T> = T extends string ? `${T}` : T extends (infer U)[] ? Plain<U>[]",
  "  : T extends object ? { [K in keyof T]: Plain<T[K]> } : T;"];

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
    ...PLAIN,
    ...literals,
    "",
  ].join("\n");
}

/** The panels and the cursor as a TypeScript program for the types of Grafana 8.3, which has none of whole boards. */
function oldestProgram(boards) {
  const dropIgnored = (options) => Object.fromEntries(Object.entries(options)
    .map(([key, value]) => [key, key in IGNORED ? { ...value, [IGNORED[key]]: undefined } : value]));
  const panels = Object.values(boards).flatMap((board) => board.panels.filter((panel) => panel.type in PANELS));
  const literals = panels.map((panel, p) =>
    `const panel${p}: ${panel.type} = ${JSON.stringify({ ...panel, options: dropIgnored(panel.options) })};`
      // The lowest threshold is -Infinity, which JSON writes as null.
      .replaceAll(`"value":null`, `"value":-Infinity`));
  return [
    `import type { DashboardCursorSync, DataQuery, PanelModel } from "grafana-data-8.3";`,
    `import type * as schema from "grafana-schema-8.3";`,
    ...PLAIN,
    "type Query = DataQuery & { expr: string; legendFormat: string; range: boolean; instant: boolean };",
    "type Panel<Options, Custom> = Omit<PanelModel, 'options' | 'fieldConfig' | 'targets'> & {",
    "  type: string; gridPos: { x: number; y: number; w: number; h: number }; targets: Query[];",
    "  options: Plain<Partial<Options>>; fieldConfig: Plain<PanelModel<unknown, Custom>['fieldConfig']> };",
    "type stat = Panel<schema.SingleStatBaseOptions & { colorMode: schema.BigValueColorMode; textMode: schema.BigValueTextMode;",
    "  graphMode: schema.BigValueGraphMode; justifyMode: schema.BigValueJustifyMode }, never>;",
    "type bargauge = Panel<schema.SingleStatBaseOptions & { displayMode: schema.BarGaugeDisplayMode; showUnfilled: boolean }, never>;",
    "type timeseries = Panel<schema.OptionsWithLegend & schema.OptionsWithTooltip, schema.GraphFieldConfig>;",
    ...Object.values(boards).map((board, b) => `const cursor${b}: \`\${DashboardCursorSync}\` = "${board.graphTooltip}";`),
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
const wrong = [
  ...Object.entries(boards).flatMap(([name, board]) => wrongUnits(name, board)),
  ...compiled(program(boards)),
  ...compiled(oldestProgram(boards)).map((error) => `Grafana 8.3: ${error}`),
];
wrong.forEach((each) => console.error(each));
// The checks themselves must find errors in an invalid board.
const nonsense = { ...boards["overview.json"], titel: "?" };
const [panel] = nonsense.panels.filter((each) => each.type === "timeseries");
const newer = { panels: [{ ...panel, fieldConfig: { defaults: { ...panel.fieldConfig.defaults, custom: { axisBorderShow: true } } } }] };
const accepted = [
  compiled(program({ nonsense })),
  compiled(oldestProgram({ newer: { ...nonsense, ...newer } })),
  wrongUnits("", { panels: [{ fieldConfig: { defaults: { unit: "?" } } }] }),
].filter((errors) => errors.length === 0);
if (accepted.length > 0) {
  console.error("the check accepts an invalid board");
  process.exit(1);
}
process.exit(wrong.length === 0 ? 0 : 1);
