//! A report as a self-contained HTML page.

use std::fmt::Write as _;

use crate::{
    Report, Second, Summary,
    chart::{self, Chart, Polyline},
};

const STYLE: &str = "body{font:15px sans-serif;max-width:900px;margin:2em auto;padding:0 1em}\
    td{padding:.15em 1.5em .15em 0}svg{width:100%;margin-top:1.5em}pre{white-space:pre-wrap}";
/// The end of the latency curve: the quantile 1 - 10^-4.
const NINES: f64 = 4.0;
const CURVE_POINTS: u32 = 200;
const TIME_MARKS: u64 = 10;

/// The page of a run.
pub fn html(title: &str, report: &Report, summary: &Summary) -> String {
    let title = escape(title);
    let mut rows = String::new();
    for (name, value) in summary.lines() {
        // Writing to a String cannot fail.
        writeln!(rows, "<tr><td>{}</td><td>{value}</td></tr>", escape(&name)).ok();
    }
    let troubles: String = report.troubles.iter().map(|trouble| escape(trouble) + "\n").collect();
    let charts: String = [distribution(report), throughput(report), latency(report)]
        .map(|chart| chart::svg(&[chart]))
        .concat();
    format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>{title}</title>\
         <style>{STYLE}</style></head>\n<body><h1>{title}</h1>\n<table>{rows}</table>\n\
         {charts}<pre>{troubles}</pre></body></html>\n"
    )
}

/// Latency by quantile. The x axis is the number of nines, so that the tail is visible.
fn distribution(report: &Report) -> Chart {
    let at = |nines: f64| report.latency(1.0 - 10_f64.powf(-nines)).as_secs_f64() * 1e3;
    let nines = (0..=CURVE_POINTS).map(|n| NINES * f64::from(n) / f64::from(CURVE_POINTS));
    let marks = [("0 %", 0.0), ("90 %", 1.0), ("99 %", 2.0), ("99.9 %", 3.0), ("99.99 %", 4.0)];
    Chart {
        title: "latency by quantile, ms",
        x_marks: marks.map(|(text, nines)| (nines, text.to_owned())).into(),
        series: vec![Polyline { name: "latency", points: nines.map(|n| (n, at(n))).collect() }],
    }
}

fn throughput(report: &Report) -> Chart {
    let over_time = |name, count: fn(&Second) -> u64| {
        #[expect(clippy::cast_precision_loss, reason = "counts of one second")]
        series(report, name, move |second| count(second) as f64)
    };
    over_seconds(
        report,
        "answers per second",
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
            series(report, "p50", |second| second.p50_ms),
            series(report, "p99", |second| second.p99_ms),
            series(report, "max", |second| second.max_ms),
        ],
    )
}

fn over_seconds(report: &Report, title: &'static str, series: Vec<Polyline>) -> Chart {
    let numbers = report.timeline.iter().map(|second| second.number);
    let apart = (report.timeline.len() as u64 / TIME_MARKS).max(1);
    let marked = numbers.filter(|number| number % apart == 0);
    Chart { title, x_marks: marked.map(|n| (float(n), format!("{n} s"))).collect(), series }
}

fn series(report: &Report, name: &'static str, of: impl Fn(&Second) -> f64) -> Polyline {
    let points = report.timeline.iter().map(|second| (float(second.number), of(second))).collect();
    Polyline { name, points }
}

#[expect(clippy::cast_precision_loss, reason = "seconds of a run")]
fn float(seconds: u64) -> f64 {
    seconds as f64
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}
