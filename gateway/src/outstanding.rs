//! What the accepted requests of one model version cost that have not ended, and those that have.

use batchfleet_broker::Priority;

/// What an accepted request costs.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct RequestWork {
    pub(crate) priority: Priority,
    pub(crate) rows: u32,
    /// Units of all rows; rows, if all rows cost the same.
    pub(crate) units: f64,
}

/// The units of this gateway's requests for one model version.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct OutstandingWork {
    /// By class, highest class first.
    classes: [ClassWork; Priority::ALL.len()],
    /// Requests that have ended, and their units.
    pub(crate) ended: u64,
    pub(crate) ended_units: f64,
}

/// Requests of one class that have not ended.
#[derive(Clone, Copy, Debug, Default)]
struct ClassWork {
    requests: u64,
    units: f64,
}

impl OutstandingWork {
    pub(crate) fn accepted(&mut self, work: RequestWork) {
        let class = &mut self.classes[usize::from(work.priority.code())];
        class.requests += 1;
        class.units += work.units;
    }

    pub(crate) fn ended(&mut self, work: RequestWork) {
        let class = &mut self.classes[usize::from(work.priority.code())];
        class.requests = class.requests.saturating_sub(1);
        // No error of rounding remains.
        class.units = if class.requests == 0 { 0.0 } else { class.units - work.units };
        self.ended += 1;
        self.ended_units += work.units;
    }

    /// The units of all requests of this class and of higher classes.
    pub(crate) fn units(&self, priority: Priority) -> f64 {
        let classes = &self.classes[..=usize::from(priority.code())];
        classes.iter().map(|class| class.units).sum::<f64>().max(0.0)
    }

    /// The mean units of a request; `None` without requests.
    pub(crate) fn mean(&self) -> Option<f64> {
        let requests: u64 = self.classes.iter().map(|class| class.requests).sum();
        #[expect(clippy::cast_precision_loss, reason = "a number of requests in flight")]
        (requests > 0).then(|| self.units(Priority::Sheddable) / requests as f64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_class_waits_for_itself_and_for_higher_classes() {
        let mut work = OutstandingWork::default();
        let of = |priority, units| RequestWork { priority, rows: 1, units };
        assert_eq!(work.mean(), None);
        work.accepted(of(Priority::Critical, 2.0));
        work.accepted(of(Priority::Sheddable, 64.1));
        let units = |work: &OutstandingWork| Priority::ALL.map(|class| work.units(class));
        let are = |found: [f64; 3], expected: [f64; 3]| {
            found.iter().zip(expected).all(|(found, expected)| (found - expected).abs() < 1e-9)
        };
        assert!(are(units(&work), [2.0, 2.0, 66.1]), "{work:?}");
        assert!((work.mean().unwrap() - 33.05).abs() < 1e-9);
        work.ended(of(Priority::Sheddable, 64.1));
        assert!(are(units(&work), [2.0; 3]), "{work:?}");
        assert!(work.ended == 1 && (work.ended_units - 64.1).abs() < 1e-9, "{work:?}");
        work.ended(of(Priority::Critical, 2.0));
        assert!(are(units(&work), [0.0; 3]), "{work:?}");
    }
}
