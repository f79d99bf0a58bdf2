//! The metrics that a program serves on its admin port.

use anyhow::{Result, ensure};
use batchfleet_testkit::get;

/// The samples of one scrape.
#[derive(Clone, Debug, Default)]
pub(crate) struct Scrape {
    samples: Vec<(String, f64)>,
}

/// A gateway's counts of requests, by outcome.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Books {
    pub(crate) offered: f64,
    pub(crate) accepted: f64,
    pub(crate) refused: f64,
    pub(crate) answered: f64,
    pub(crate) in_flight: f64,
}

impl Scrape {
    /// Scrapes the program whose admin port is at `address`.
    pub(crate) async fn of(address: &str) -> Result<Self> {
        let (status, text) = get(address, "/metrics").await?;
        ensure!(status == 200, "/metrics answered {status}");
        Ok(Self::parse(&text))
    }

    fn parse(text: &str) -> Self {
        let lines = text.lines().filter(|line| !line.starts_with('#'));
        let samples = lines.filter_map(|line| {
            let (name, value) = line.rsplit_once(' ')?;
            Some((name.to_owned(), value.parse().ok()?))
        });
        Self { samples: samples.collect() }
    }

    /// The sum of a metric over the label sets that contain `label`, such as `outcome="ok"`.
    pub(crate) fn sum(&self, metric: &str, label: &str) -> f64 {
        let of_metric = |name: &str| {
            name.strip_prefix(metric).is_some_and(|rest| rest.is_empty() || rest.starts_with('{'))
        };
        let samples = self.samples.iter().filter(|(name, _)| of_metric(name));
        samples.filter(|(name, _)| name.contains(label)).map(|(_, value)| value).sum()
    }

    /// The counts of a gateway.
    pub(crate) fn books(&self) -> Books {
        Books {
            offered: self.sum("batchfleet_gateway_offered_total", ""),
            accepted: self.sum("batchfleet_gateway_accepted_total", ""),
            refused: self.sum("batchfleet_gateway_refused_total", ""),
            answered: self.sum("batchfleet_gateway_answered_total", ""),
            in_flight: self.sum("batchfleet_gateway_in_flight", ""),
        }
    }
}

impl Books {
    /// Whether offered = accepted + refused, and accepted = answered + in flight.
    pub(crate) fn balance(&self) -> bool {
        let equal = |a: f64, b: f64| (a - b).abs() < 0.5;
        equal(self.accepted, self.answered + self.in_flight)
            && equal(self.offered, self.accepted + self.refused)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "# HELP x\n\
        batchfleet_gateway_offered_total{model=\"echo\"} 9\n\
        batchfleet_gateway_accepted_total{model=\"echo\"} 7\n\
        batchfleet_gateway_refused_total{model=\"echo\",reason=\"inflight\"} 2\n\
        batchfleet_gateway_answered_total{model=\"echo\",outcome=\"ok\"} 5\n\
        batchfleet_gateway_answered_total{model=\"echo\",outcome=\"expired\"} 1\n\
        batchfleet_gateway_in_flight{model=\"echo\"} 1\n";

    #[test]
    fn books_balance_when_every_request_is_counted_once() {
        let scrape = Scrape::parse(TEXT);
        assert!(scrape.books().balance(), "{:?}", scrape.books());
        assert!(!Books { in_flight: 0.0, ..scrape.books() }.balance());
        assert!(!Books { refused: 3.0, ..scrape.books() }.balance());
        let expired = scrape.sum("batchfleet_gateway_answered_total", "outcome=\"expired\"");
        assert!((expired - 1.0).abs() < 0.1);
    }
}
