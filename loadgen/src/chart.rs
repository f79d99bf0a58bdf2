//! Line charts as SVG.

use std::{fmt::Write as _, iter};

const WIDTH: f64 = 860.0;
/// Height of one chart.
const HEIGHT: f64 = 260.0;
/// Margins around the plot area, for axes, title and legend.
const LEFT: f64 = 70.0;
const RIGHT: f64 = 25.0;
const BELOW: f64 = 40.0;
const ABOVE: f64 = 30.0;
/// Width of a legend entry.
const LEGEND: f64 = 110.0;
const COLOURS: [&str; 4] = ["#1f77b4", "#d62728", "#2ca02c", "#7f7f7f"];
const STYLE: &str = "svg{font:12px sans-serif}.title{font-size:14px;font-weight:bold}\
    .grid{stroke:#ddd}.x{text-anchor:middle}.y{text-anchor:end}.line{fill:none;stroke-width:1.5}";

/// A named line of a chart.
#[derive(Clone, Debug)]
pub struct Polyline {
    /// The name in the legend.
    pub name: &'static str,
    /// The points (x, y), from left to right.
    pub points: Vec<(f64, f64)>,
}

/// A line chart. Both axes start at 0.
#[derive(Clone, Debug)]
pub struct Chart {
    /// The title.
    pub title: &'static str,
    /// Labels of the x axis: position and text.
    pub x_marks: Vec<(f64, String)>,
    /// The lines.
    pub series: Vec<Polyline>,
}

/// Draws charts one below the other, as a self-contained SVG image.
pub fn svg(charts: &[Chart]) -> String {
    let tops = iter::successors(Some(0.0), |top| Some(top + HEIGHT));
    let drawn: String = tops.zip(charts).map(|(top, chart)| chart.draw(top)).collect();
    let height = charts.iter().fold(0.0, |height, _| height + HEIGHT);
    format!(
        "<svg viewBox=\"0 0 {WIDTH} {height}\" xmlns=\"http://www.w3.org/2000/svg\">\n\
         <style>{STYLE}</style>\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n\
         {drawn}</svg>\n"
    )
}

impl Chart {
    /// Draws the chart with its upper edge at `top`.
    fn draw(&self, top: f64) -> String {
        let points = || self.series.iter().flat_map(|series| &series.points);
        let x_most = points().map(|point| point.0).fold(f64::MIN_POSITIVE, f64::max);
        let y_step = step(points().map(|point| point.1).fold(f64::MIN_POSITIVE, f64::max));
        let y_most = 4.0 * y_step;
        let bottom = HEIGHT - BELOW;
        let x = |value: f64| LEFT + (WIDTH - LEFT - RIGHT) * value / x_most;
        let y = |value: f64| bottom - (bottom - ABOVE) * value / y_most;

        let mut svg = format!("<g transform=\"translate(0 {top})\">\n");
        let mut draw = |element: String| svg += &(element + "\n");
        draw(format!("<text x=\"{LEFT}\" y=\"18\" class=\"title\">{}</text>", self.title));
        for mark in 0..=4 {
            let (value, right) = (f64::from(mark) * y_step, WIDTH - RIGHT);
            let (at, value) = (y(value), (value * 1e6).round() / 1e6);
            draw(format!("<path d=\"M{LEFT} {at:.1}H{right}\" class=\"grid\"/>"));
            let (left, below) = (LEFT - 6.0, at + 4.0);
            draw(format!("<text x=\"{left}\" y=\"{below:.1}\" class=\"y\">{value}</text>"));
        }
        for (value, text) in &self.x_marks {
            let (at, below) = (x(*value), bottom + 16.0);
            draw(format!("<text x=\"{at:.1}\" y=\"{below}\" class=\"x\">{text}</text>"));
        }
        let legend = iter::successors(Some(LEFT), |left| Some(left + LEGEND));
        for ((series, colour), left) in self.series.iter().zip(COLOURS.iter().cycle()).zip(legend) {
            let mut path = String::new();
            for (letter, point) in iter::once('M').chain(iter::repeat('L')).zip(&series.points) {
                // Writing to a String cannot fail.
                write!(path, "{letter}{:.1} {:.1}", x(point.0), y(point.1)).ok();
            }
            draw(format!("<path d=\"{path}\" stroke=\"{colour}\" class=\"line\"/>"));
            let (name, below) = (series.name, HEIGHT - 6.0);
            draw(format!("<text x=\"{left}\" y=\"{below}\" fill=\"{colour}\">{name}</text>"));
        }
        svg + "</g>\n"
    }
}

/// The distance between y marks, such that four marks reach `most`: 1, 2, 2.5 or 5 times a power of
/// 10.
fn step(most: f64) -> f64 {
    let least = most / 4.0;
    let power = 10_f64.powf(least.log10().floor());
    let round = [1.0, 2.0, 2.5, 5.0, 10.0].into_iter().find(|round| round * power >= least);
    power * round.unwrap_or(10.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_marks_are_round_numbers_and_cover_the_values() {
        for (most, wanted) in [(4.0, 1.0), (7.9, 2.0), (100.0, 25.0), (101.0, 50.0), (0.3, 0.1)] {
            assert!((step(most) - wanted).abs() < 1e-9, "{most}: {}", step(most));
        }
    }

    #[test]
    fn a_series_is_a_path_within_the_plot_area() {
        let series = vec![Polyline { name: "a", points: vec![(0.0, 0.0), (1.0, 4.0)] }];
        let chart = Chart { title: "t", x_marks: vec![(1.0, "1".to_owned())], series };
        let drawn = svg(&[chart]);
        assert!(drawn.contains("M70.0 220.0L835.0 30.0"), "{drawn}");
        let empty = Chart { title: "t", x_marks: vec![], series: vec![] };
        assert!(!svg(&[empty.clone(), empty]).contains("NaN"));
    }
}
