//! Detects that another client than the autoscaler has scaled a fleet's Deployment. Pure.

use std::time::Duration;

use crate::{objects::MANAGER, scaled_by::ScaledBy};

/// An autoscaler scales a Deployment first and updates its own status a moment later.
const SETTLES: Duration = Duration::from_secs(4);
/// The name under which autoscalers change a Deployment.
const AUTOSCALER: &str = "kube-controller-manager";

/// The replicas of a Deployment over time.
#[derive(Debug, Default)]
pub(super) struct Replicas {
    /// The last number whose origin is known or was reported.
    settled: Option<u32>,
    /// A number of unknown origin, and the time at which it was first observed.
    unexplained: Option<(u32, Duration)>,
}

/// A number of replicas that neither the autoscaler nor the controller wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Unexplained {
    before: u32,
    after: u32,
    /// Whether the number has stayed for longer than the status of an autoscaler needs to follow.
    has_stayed: bool,
}

impl Replicas {
    /// Records the replicas at `now`. `explained` are the numbers that the autoscaler and the
    /// controller want. Returns a number that neither of them wants, until [`Self::settle`].
    pub(super) fn observe(
        &mut self,
        replicas: u32,
        explained: &[u32],
        now: Duration,
    ) -> Option<Unexplained> {
        let before = self.settled.filter(|before| *before != replicas);
        let Some(before) = before.filter(|_| !explained.contains(&replicas)) else {
            self.settle(replicas);
            return None;
        };
        let since = match self.unexplained {
            Some((number, since)) if number == replicas => since,
            _ => now,
        };
        self.unexplained = Some((replicas, since));
        let has_stayed = now.saturating_sub(since) >= SETTLES;
        Some(Unexplained { before, after: replicas, has_stayed })
    }

    /// Accepts this number.
    pub(super) fn settle(&mut self, replicas: u32) {
        (self.settled, self.unexplained) = (Some(replicas), None);
    }
}

impl Unexplained {
    /// Returns whether the origin of the number is known. `client` is the client that scaled the
    /// Deployment last, if the Deployment tells.
    pub(super) fn is_settled(self, client: Option<&str>) -> bool {
        self.has_stayed || client.is_some()
    }

    /// Tells users about a change that this client made; `None` if the autoscaler or the controller
    /// made it. `floor` is the number that the controller wants.
    pub(super) fn note(
        self,
        client: Option<&str>,
        scaled_by: &ScaledBy,
        floor: u32,
    ) -> Option<String> {
        if client.is_some_and(|client| [AUTOSCALER, MANAGER].contains(&client)) {
            return None;
        }
        let Self { before, after, .. } = self;
        let client = client.unwrap_or("another client than the autoscaler");
        let consequence = if after == 0 || scaled_by.is_controller_instead() {
            format!("the controller sets {floor} again")
        } else if after < floor {
            format!("the autoscaler restores its minimum of {floor}")
        } else if after < before {
            "the autoscaler adds the workers that the load needs".to_owned()
        } else if scaled_by.autoscaler_wants().is_none() {
            "the autoscaler, which has not read its metric yet, removes no worker".to_owned()
        } else {
            "the autoscaler removes workers that the load does not need only after it has not needed \
             them for 300 s"
                .to_owned()
        };
        Some(format!("{client} scaled the Deployment from {before} to {after}; {consequence}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_change_that_stays_unexplained_is_reported_until_it_is_settled() {
        let mut replicas = Replicas::default();
        let at = Duration::from_secs;
        let unexplained =
            |before, after, has_stayed| Some(Unexplained { before, after, has_stayed });
        assert_eq!(replicas.observe(2, &[2], at(0)), None);
        // The autoscaler's status follows its change.
        assert_eq!(replicas.observe(4, &[2], at(5)), unexplained(2, 4, false));
        assert_eq!(replicas.observe(4, &[2, 4], at(6)), None);
        assert_eq!(replicas.observe(9, &[2, 4], at(10)), unexplained(4, 9, false));
        assert_eq!(replicas.observe(9, &[2, 4], at(13)), unexplained(4, 9, false));
        assert_eq!(replicas.observe(9, &[2, 4], at(15)), unexplained(4, 9, true));
        replicas.settle(9);
        assert_eq!(replicas.observe(9, &[2, 4], at(20)), None);
        // The change is undone before it counts.
        assert_eq!(replicas.observe(1, &[4], at(25)), unexplained(9, 1, false));
        assert_eq!(replicas.observe(9, &[4], at(30)), None);
        assert_eq!(replicas.observe(1, &[4], at(35)), unexplained(9, 1, false));
    }

    #[test]
    fn the_note_names_the_client_and_what_follows() {
        let pending = ScaledBy::Autoscaler(None);
        let read = ScaledBy::Autoscaler(Some(3));
        let blind = ScaledBy::ControllerInstead { why: "no metrics API".to_owned() };
        let from = |before, after| Unexplained { before, after, has_stayed: false };
        for (change, client, scaled_by, follows) in [
            (from(3, 7), "kubectl", &read, "only after it has not needed them for 300 s"),
            (from(3, 7), "kubectl", &pending, "which has not read its metric yet"),
            (from(3, 7), "kubectl", &blind, "the controller sets 3 again"),
            (from(3, 1), "kubectl", &read, "the autoscaler restores its minimum of 3"),
            (from(9, 5), "kubectl", &read, "the autoscaler adds the workers that the load needs"),
            (from(3, 0), "kubectl", &read, "the controller sets 3 again"),
        ] {
            assert!(change.is_settled(Some(client)));
            let note = change.note(Some(client), scaled_by, 3).unwrap();
            let begin = format!("kubectl scaled the Deployment from {} to ", change.before);
            assert!(note.starts_with(&begin) && note.contains(follows), "{note}");
        }
        assert_eq!(from(3, 7).note(Some(AUTOSCALER), &blind, 3), None);
        assert_eq!(from(3, 7).note(Some(MANAGER), &blind, 3), None);
        let unnamed = from(3, 7).note(None, &read, 3).unwrap();
        assert!(unnamed.starts_with("another client than the autoscaler scaled"), "{unnamed}");
        assert!(!from(3, 7).is_settled(None));
    }
}
