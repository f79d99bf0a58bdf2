//! Detects that another client than the autoscaler has scaled a fleet's Deployment. Pure.

use std::time::Duration;

/// An autoscaler scales a Deployment first and updates its own status a moment later.
const SETTLES: Duration = Duration::from_secs(4);

/// The replicas of a Deployment over time.
#[derive(Debug, Default)]
pub(super) struct Replicas {
    /// The last number whose origin is known or was reported.
    settled: Option<u32>,
    /// A number of unknown origin, and the time at which it was first observed.
    unexplained: Option<(u32, Duration)>,
}

impl Replicas {
    /// Records the replicas at `now`. `explained` are the numbers that the autoscaler and the
    /// controller want. Returns the numbers before and after a change that neither of them made.
    pub(super) fn observe(
        &mut self,
        replicas: u32,
        explained: &[u32],
        now: Duration,
    ) -> Option<(u32, u32)> {
        let Some(before) = self.settled.filter(|before| *before != replicas) else {
            (self.settled, self.unexplained) = (Some(replicas), None);
            return None;
        };
        let since = match self.unexplained {
            _ if explained.contains(&replicas) => {
                (self.settled, self.unexplained) = (Some(replicas), None);
                return None;
            }
            Some((number, since)) if number == replicas => since,
            _ => now,
        };
        self.unexplained = Some((replicas, since));
        if now.saturating_sub(since) < SETTLES {
            return None;
        }
        (self.settled, self.unexplained) = (Some(replicas), None);
        Some((before, replicas))
    }
}

/// Tells users about such a change. `floor` is the minimum of the autoscaler.
pub(super) fn note((before, after): (u32, u32), floor: u32) -> String {
    let consequence = if after > before {
        "the autoscaler removes workers that the load does not need only after it has not needed them \
         for 300 s"
            .to_owned()
    } else {
        format!("the autoscaler restores its minimum of {floor}")
    };
    format!(
        "another client than the autoscaler scaled the Deployment from {before} to {after}; \
         {consequence}"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_change_that_stays_unexplained_is_reported_and_only_once() {
        let mut replicas = Replicas::default();
        let at = Duration::from_secs;
        assert_eq!(replicas.observe(2, &[2], at(0)), None);
        // The autoscaler's status follows its change.
        assert_eq!(replicas.observe(4, &[2], at(5)), None);
        assert_eq!(replicas.observe(4, &[2, 4], at(6)), None);
        assert_eq!(replicas.observe(9, &[2, 4], at(10)), None);
        assert_eq!(replicas.observe(9, &[2, 4], at(13)), None);
        assert_eq!(replicas.observe(9, &[2, 4], at(15)), Some((4, 9)));
        assert_eq!(replicas.observe(9, &[2, 4], at(20)), None);
        // The change is undone before it counts.
        assert_eq!(replicas.observe(1, &[4], at(25)), None);
        assert_eq!(replicas.observe(9, &[4], at(30)), None);
        assert_eq!(replicas.observe(1, &[4], at(35)), None);
    }
}
