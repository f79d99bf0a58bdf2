// Draws a board with Grafana's own chart components. `window.board` has the board and the query results
// of pictures.py. Grafana's variables, transformations and layout engine are not part of this drawing.

import { createTheme, dateTime, FieldType, getDisplayProcessor, ThemeContext, toDataFrame } from "@grafana/data";
import { BarGauge, BigValue, LegendDisplayMode, PanelChrome, TimeSeries, TooltipDisplayMode } from "@grafana/ui";
import { createRoot } from "react-dom/client";

const CELL = { width: 66, height: 34, gap: 8 };
const theme = createTheme({ colors: { mode: "dark" } });
const { title, panels, from, to } = window.board;
const timeRange = { from: dateTime(from), to: dateTime(to), raw: { from: dateTime(from), to: dateTime(to) } };

/** The series of a panel as frames with units and colours. If there are many, only those that are not 0. */
function frames(panel) {
  const moves = ({ values }) => values.some((value) => value);
  const shown = panel.series.length > 5 && panel.series.some(moves) ? panel.series.filter(moves) : panel.series;
  shown.sort((one, other) => one.name.localeCompare(other.name, "en", { numeric: true }));
  return shown.map(({ name, times, values }, seriesIndex) => {
    const config = { ...panel.fieldConfig.defaults, displayName: name };
    const frame = toDataFrame({ name, fields: [
      { name: "time", type: FieldType.time, values: times, config: {} },
      { name, type: FieldType.number, values, config },
    ] });
    const [time, field] = frame.fields;
    time.display = getDisplayProcessor({ field: time, theme, timeZone: "utc" });
    field.state = { seriesIndex };
    field.display = getDisplayProcessor({ field, theme });
    return frame;
  });
}

function last(field) {
  return field.display(field.values.filter((value) => value !== null).at(-1) ?? null);
}

function Chart({ panel, width, height }) {
  const data = frames(panel);
  if (data.length === 0) return <div>no data</div>;
  switch (panel.type) {
    case "stat":
      return <BigValue theme={theme} value={last(data[0].fields[1])} width={width} height={height} colorMode="value" graphMode="none" />;
    case "bargauge":
      return data.map((frame) => {
        const field = frame.fields[1];
        const most = Math.max(...data.map((other) => last(other.fields[1]).numeric));
        return <BarGauge key={frame.name} theme={theme} orientation="horizontal" displayMode="basic" width={width} height={(height - 6) / data.length}
          text={{ titleSize: 13, valueSize: 14 }} value={{ ...last(field), title: frame.name }} field={{ min: 0, max: most, thresholds: field.config.thresholds }} display={field.display} />;
      });
    default:
      return <TimeSeries frames={data} timeRange={timeRange} timeZone="utc" width={width} height={height}
        legend={{ showLegend: true, displayMode: LegendDisplayMode.List, placement: "bottom", calcs: [] }}
        options={{ tooltip: { mode: TooltipDisplayMode.None } }} />;
  }
}

function Panel({ panel }) {
  const { x, y, w, h } = panel.gridPos;
  const [width, height] = [w * CELL.width - CELL.gap, h * CELL.height - CELL.gap];
  const place = { position: "absolute", left: x * CELL.width, top: 50 + y * CELL.height, width, height };
  if (panel.type === "row") return <h3 style={{ ...place, margin: 0, fontSize: 16, lineHeight: `${height}px` }}>{panel.title}</h3>;
  return (
    <div style={place}>
      <PanelChrome title={panel.title} width={width} height={height}>
        {(inner, high) => <Chart panel={panel} width={inner} height={high} />}
      </PanelChrome>
    </div>
  );
}

function Board() {
  const style = { position: "relative", padding: 8, background: theme.colors.background.canvas, color: theme.colors.text.primary, fontFamily: "sans-serif", minHeight: "100vh" };
  return (
    <ThemeContext.Provider value={theme}>
      <style>{`body { margin: 0; color: ${theme.colors.text.primary} } button { color: inherit; background: none; border: 0 }`}</style>
      <div style={style}>
        <h2 style={{ margin: 0, fontSize: 20 }}>{title}</h2>
        <div style={{ position: "absolute", left: 12, top: 0 }}>
          {panels.map((panel) => <Panel key={panel.id} panel={panel} />)}
        </div>
      </div>
    </ThemeContext.Provider>
  );
}

createRoot(document.getElementById("root")).render(<Board />);
