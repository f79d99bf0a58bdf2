//! A report as one HTML page that needs nothing else.

use std::fmt::Write as _;

use crate::{
    Report, Second, Summary,
    chart::{Chart, Line},
};

const STYLE: &str = "body{font:15px sans-serif;max-width:900px;margin:2em auto;padding:0 1em}\
    td{padding:.15em 1.5em .15em 0}svg{width:100%;margin-top:1.5em;font-size:12px}\
    .title{font-size:14px;font-weight:bold}.grid{stroke:#ddd}.x{text-anchor:middle}\
    .y{text-anchor:end}.line{fill:none;stroke-width:1.5}pre{white-space:pre-wrap}";
/// How far into the tail latencies are drawn: to the answer among 10^4.
const NINES: f64 = 4.0;
const CURVE_POINTS: u32 = 200;
const TIME_MARKS: u64 = 10;

/// The page of a run; `title` says what was run.
pub fn html(title: &str, report: &Report, summary: &Summary) -> String {
    let title = escape(title);
    let mut rows = String::new();
    for (name, value) in summary.lines() {
        // Writing to a string cannot fail.
        writeln!(rows, "<tr><td>{}</td><td>{value}</td></tr>", escape(&name)).ok();
    }
    let troubles: String = report.troubles.iter().map(|trouble| escape(trouble) + "\n").collect();
    let charts: String = [distribution(report), throughput(report), latency(report)]
        .map(|chart| chart.svg())
        .concat();
    format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>{title}</title>\
         <style>{STYLE}</style></head>\n<body><h1>{title}</h1>\n<table>{rows}</table>\n\
         {charts}<pre>{troubles}</pre></body></html>\n"
    )
}

/// Latency over the share of answers that were slower, on a logarithmic scale.
fn distribution(report: &Report) -> Chart {
    let at = |nines: f64| report.latency(1.0 - 10_f64.powf(-nines)).as_secs_f64() * 1e3;
    let nines = (0..=CURVE_POINTS).map(|n| NINES * f64::from(n) / f64::from(CURVE_POINTS));
    let marks = [("0 %", 0.0), ("90 %", 1.0), ("99 %", 2.0), ("99.9 %", 3.0), ("99.99 %", 4.0)];
    Chart {
        title: "latency that this share of the answers did not exceed, ms",
        x_marks: marks.map(|(text, nines)| (nines, text.to_owned())).into(),
        lines: vec![Line { name: "latency", points: nines.map(|n| (n, at(n))).collect() }],
    }
}

fn throughput(report: &Report) -> Chart {
    let over_time = |name, count: fn(&Second) -> u64| {
        #[expect(clippy::cast_precision_loss, reason = "counts of one second")]
        line(report, name, move |second| count(second) as f64)
    };
    over_seconds(
        report,
        "answers a second",
        vec![
            over_time("right", |second| second.right),
            over_time("refused", |second| second.refused),
            over_time("wrong", |second| second.wrong),
            over_time("not answered", |second| second.failed),
        ],
    )
}

fn latency(report: &Report) -> Chart {
    over_seconds(
        report,
        "latency, ms",
        vec![
            line(report, "p50", |second| second.p50_ms),
            line(report, "p99", |second| second.p99_ms),
            line(report, "max", |second| second.max_ms),
        ],
    )
}

fn over_seconds(report: &Report, title: &'static str, lines: Vec<Line>) -> Chart {
    let numbers = report.timeline.iter().map(|second| second.number);
    let apart = (report.timeline.len() as u64 / TIME_MARKS).max(1);
    let marked = numbers.filter(|number| number % apart == 0);
    Chart { title, x_marks: marked.map(|n| (float(n), format!("{n} s"))).collect(), lines }
}

fn line(report: &Report, name: &'static str, of: impl Fn(&Second) -> f64) -> Line {
    let points = report.timeline.iter().map(|second| (float(second.number), of(second))).collect();
    Line { name, points }
}

#[expect(clippy::cast_precision_loss, reason = "seconds of a run")]
fn float(seconds: u64) -> f64 {
    seconds as f64
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}
