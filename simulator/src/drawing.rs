//! The chart of a simulation: offered requests, missed requests and workers over time.

use batchfleet_loadgen::chart::{Chart, Polyline, svg};

use crate::{
    engine::Scenario,
    outcome::{Interval, SimulationOutcome},
};

/// Number of labels on the time axis.
const TIME_MARKS: u32 = 4;

/// Draws a simulation as an SVG image.
pub(crate) fn draw(scenario: &Scenario, outcome: &SimulationOutcome) -> String {
    #[expect(clippy::cast_precision_loss, reason = "a few hundred intervals")]
    let seconds = scenario.duration / outcome.intervals.len() as f64;
    let series = |name, value: &dyn Fn(&Interval) -> f64| {
        let starts = (0..).map(|n| f64::from(n) * seconds);
        Polyline { name, points: starts.zip(outcome.intervals.iter().map(value)).collect() }
    };
    let offered = series("offered", &|interval| f64::from(interval.offered) / seconds);
    let missed = series("missed", &|interval| f64::from(interval.missed) / seconds);
    let workers = series("workers", &|interval| interval.workers.into());
    let chart = |title, series| Chart { title, x_marks: time_marks(scenario.duration), series };
    svg(&[
        chart("requests per second", vec![offered, missed]),
        chart("number of workers", vec![workers]),
    ])
}

fn time_marks(duration: f64) -> Vec<(f64, String)> {
    let at = |mark: u32| duration * f64::from(mark) / f64::from(TIME_MARKS);
    (0..=TIME_MARKS).map(|mark| (at(mark), format!("{:.0} min", at(mark) / 60.0))).collect()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::{ArrivalPattern, Curve, PolicyPilot};

    #[test]
    fn a_simulation_is_drawn_as_two_charts_of_three_series() {
        let curve = Curve::affine(8.0, 2.0);
        let arrivals = ArrivalPattern::flash(10.0, 1000.0, 20.0, 40.0).arrivals(60.0, 1);
        let mut pilot = PolicyPilot::new(curve.cost(64).unwrap(), 64, Duration::from_millis(100));
        let scenario = Scenario::new(curve, arrivals, 60.0, 1);
        let outcome = scenario.run(&mut pilot);
        let drawn = draw(&scenario, &outcome);
        assert_eq!(drawn.matches("<svg").count(), 1);
        let lines: Vec<&str> =
            drawn.lines().filter(|line| line.contains("class=\"line\"")).collect();
        assert_eq!(lines.len(), 3, "{drawn}");
        for line in lines {
            assert_eq!(line.matches(['M', 'L']).count(), 600, "{line}");
        }
        assert!(drawn.contains("1 min") && !drawn.contains("NaN"), "{drawn}");
    }
}
