//! Line charts as SVG.

use std::fmt::Write as _;

const WIDTH: f64 = 860.0;
const HEIGHT: f64 = 260.0;
/// Room for what is written left of and below the lines.
const LEFT: f64 = 70.0;
/// Room right of them, for the last mark.
const RIGHT: f64 = 25.0;
const BELOW: f64 = 40.0;
const ABOVE: f64 = 30.0;
const COLOURS: [&str; 4] = ["#1f77b4", "#d62728", "#2ca02c", "#7f7f7f"];

/// A line of a chart.
pub(crate) struct Line {
    pub(crate) name: &'static str,
    /// Where it goes, from left to right.
    pub(crate) points: Vec<(f64, f64)>,
}

/// A chart; its y axis begins at 0.
pub(crate) struct Chart {
    pub(crate) title: &'static str,
    /// What is written along the x axis: where, and what.
    pub(crate) x_marks: Vec<(f64, String)>,
    pub(crate) lines: Vec<Line>,
}

impl Chart {
    /// Draws it.
    pub(crate) fn svg(&self) -> String {
        let points = || self.lines.iter().flat_map(|line| &line.points);
        let x_most = points().map(|point| point.0).fold(f64::MIN_POSITIVE, f64::max);
        let y_step = step(points().map(|point| point.1).fold(f64::MIN_POSITIVE, f64::max));
        let y_most = 4.0 * y_step;
        let x = |value: f64| LEFT + (WIDTH - LEFT - RIGHT) * value / x_most;
        let y = |value: f64| HEIGHT - BELOW - (HEIGHT - BELOW - ABOVE) * value / y_most;

        let mut svg = format!(
            "<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" xmlns=\"http://www.w3.org/2000/svg\">\n\
             <text x=\"{LEFT}\" y=\"18\" class=\"title\">{}</text>\n",
            self.title
        );
        let mut draw = |element: String| svg += &(element + "\n");
        for mark in 0..=4 {
            let (value, right) = (f64::from(mark) * y_step, WIDTH - RIGHT);
            let (at, value) = (y(value), (value * 1e6).round() / 1e6);
            draw(format!("<path d=\"M{LEFT} {at:.1}H{right}\" class=\"grid\"/>"));
            let (left, below) = (LEFT - 6.0, at + 4.0);
            draw(format!("<text x=\"{left}\" y=\"{below:.1}\" class=\"y\">{value}</text>"));
        }
        for (value, text) in &self.x_marks {
            let (at, below) = (x(*value), HEIGHT - BELOW + 16.0);
            draw(format!("<text x=\"{at:.1}\" y=\"{below}\" class=\"x\">{text}</text>"));
        }
        let mut legend = LEFT;
        for (line, colour) in self.lines.iter().zip(COLOURS.into_iter().cycle()) {
            let mut path = String::new();
            for (point, letter) in
                line.points.iter().zip(std::iter::once('M').chain(['L'].into_iter().cycle()))
            {
                // Writing to a string cannot fail.
                write!(path, "{letter}{:.1} {:.1}", x(point.0), y(point.1)).ok();
            }
            draw(format!("<path d=\"{path}\" stroke=\"{colour}\" class=\"line\"/>"));
            let below = HEIGHT - 6.0;
            draw(format!(
                "<text x=\"{legend}\" y=\"{below}\" fill=\"{colour}\">{}</text>",
                line.name
            ));
            legend += 110.0;
        }
        svg + "</svg>\n"
    }
}

/// The distance of four marks that reach `most`: 1, 2, 2.5 or 5 times a power of ten.
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
    fn marks_are_round_and_reach_the_most() {
        for (most, wanted) in [(4.0, 1.0), (7.9, 2.0), (100.0, 25.0), (101.0, 50.0), (0.3, 0.1)] {
            assert!((step(most) - wanted).abs() < 1e-9, "{most}: {}", step(most));
        }
    }

    #[test]
    fn a_line_is_one_path_within_the_picture() {
        let line = Line { name: "a", points: vec![(0.0, 0.0), (1.0, 4.0)] };
        let chart = Chart { title: "t", x_marks: vec![(1.0, "1".to_owned())], lines: vec![line] };
        assert!(chart.svg().contains("M70.0 220.0L835.0 30.0"), "{}", chart.svg());
        let nothing = Chart { title: "t", x_marks: vec![], lines: vec![] };
        assert!(!nothing.svg().contains("NaN"));
    }
}
