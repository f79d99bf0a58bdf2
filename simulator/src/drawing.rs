//! A simulation as a drawing: the load, what was missed of it, and the workers, over time.

use std::fmt::Write as _;

use crate::{
    engine::Scenario,
    outcome::{Outcome, Part},
};

const WIDTH: f64 = 960.0;
/// Each of the two panels.
const HEIGHT: f64 = 220.0;
const LEFT: f64 = 70.0;
const TOP: f64 = 30.0;

/// The drawing.
pub(crate) fn draw(scenario: &Scenario, outcome: &Outcome) -> String {
    let parts = &outcome.parts;
    #[expect(clippy::cast_precision_loss, reason = "a few hundred parts")]
    let seconds = scenario.duration / parts.len() as f64;
    let offered = |part: &Part| f64::from(part.offered) / seconds;
    let missed = |part: &Part| f64::from(part.missed) / seconds;
    let workers = |part: &Part| f64::from(part.workers);
    let load = Panel::new(TOP, parts.iter().map(offered).fold(1.0, f64::max));
    let fleet = Panel::new(TOP + HEIGHT + 50.0, parts.iter().map(workers).fold(1.0, f64::max));
    let height = TOP + 2.0 * HEIGHT + 100.0;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" \
         font-family=\"sans-serif\" font-size=\"13\">\n<rect width=\"100%\" height=\"100%\" \
         fill=\"white\"/>\n"
    );
    svg += &load.frame(
        "requests per second: <tspan fill=\"steelblue\">offered</tspan>, and \
         <tspan fill=\"crimson\">missed</tspan> of them",
    );
    svg += &load.line(parts, offered, "steelblue");
    svg += &load.line(parts, missed, "crimson");
    svg += &fleet.frame("<tspan fill=\"seagreen\">workers</tspan>");
    svg += &fleet.line(parts, workers, "seagreen");
    let foot = TOP + 2.0 * HEIGHT + 75.0;
    for quarter in 0..=4 {
        let part = f64::from(quarter) / 4.0;
        let x = LEFT + part * (WIDTH - LEFT - 40.0);
        let minutes = scenario.duration * part / 60.0;
        writeln!(svg, "<text x=\"{x:.0}\" y=\"{foot}\">{minutes:.0} min</text>").ok();
    }
    svg + "</svg>\n"
}

/// One of the two: its upper edge, and the value there.
struct Panel {
    top: f64,
    most: f64,
}

impl Panel {
    const fn new(top: f64, most: f64) -> Self {
        Self { top, most }
    }

    fn frame(&self, title: &str) -> String {
        let Self { top, most } = self;
        let (width, above, bottom) = (WIDTH - LEFT - 40.0, top - 8.0, top + HEIGHT);
        format!(
            "<rect x=\"{LEFT}\" y=\"{top}\" width=\"{width}\" height=\"{HEIGHT}\" fill=\"none\" \
             stroke=\"lightgray\"/>\n<text x=\"{LEFT}\" y=\"{above}\">{title}</text>\n\
             <text x=\"10\" y=\"{}\">{most:.0}</text>\n<text x=\"10\" y=\"{bottom}\">0</text>\n",
            top + 12.0
        )
    }

    fn line(&self, parts: &[Part], value: impl Fn(&Part) -> f64, colour: &str) -> String {
        #[expect(clippy::cast_precision_loss, reason = "a few hundred parts")]
        let step = (WIDTH - LEFT - 40.0) / parts.len() as f64;
        let mut points = String::new();
        let mut x = LEFT;
        for part in parts {
            let y = self.top + HEIGHT * (1.0 - value(part) / self.most);
            write!(points, "{x:.1},{y:.1} ").ok();
            x += step;
        }
        format!("<polyline points=\"{points}\" fill=\"none\" stroke=\"{colour}\"/>\n")
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::{Curve, Load, Ours};

    #[test]
    fn draws_each_part_within_its_frame() {
        let curve = Curve::affine(8.0, 2.0);
        let arrivals = Load::flash(10.0, 1000.0, 20.0, 40.0).arrivals(60.0, 1);
        let mut pilot = Ours::new(curve.cost(64).unwrap(), 64, Duration::from_millis(100));
        let scenario = Scenario::new(curve, arrivals, 60.0, 1);
        let outcome = scenario.run(&mut pilot);
        let svg = draw(&scenario, &outcome);
        let lines = svg.split("points=\"").skip(1).map(|rest| rest.split('"').next().unwrap());
        let points: Vec<Vec<&str>> =
            lines.map(|points| points.split_whitespace().collect()).collect();
        assert_eq!(points.iter().map(Vec::len).collect::<Vec<_>>(), [600; 3]);
        for point in points.into_iter().flatten() {
            let (x, y) = point.split_once(',').unwrap();
            let (x, y): (f64, f64) = (x.parse().unwrap(), y.parse().unwrap());
            assert!((LEFT..=WIDTH).contains(&x) && (TOP..=520.0).contains(&y), "{point}");
        }
    }
}
