//! Leaves out lines that a library repeats.
//!
//! A library may warn for every request or every second, for example while a collector is away. The
//! programs' own lines are not repeated, so they are not looked at.

use std::{
    collections::HashMap,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use parking_lot::Mutex;
use tokio::time::Instant;
use tracing::{
    Level, Metadata, callsite::Identifier, level_filters::LevelFilter, subscriber::Interest,
};
use tracing_subscriber::layer::{Context, Filter};

/// Minimum time between two lines of the same place in a library.
const EVERY: Duration = Duration::from_secs(10);
/// The start of the names of our own crates.
const OURS: &str = "batchfleet";
/// The target of all lines of libraries that use the crate `log`, which do not tell their places.
const OTHERS: &str = "log";

static LEFT_OUT: AtomicU64 = AtomicU64::new(0);

/// The number of lines left out since the process started.
pub(super) fn left_out() -> u64 {
    LEFT_OUT.load(Ordering::Relaxed)
}

/// When each place in a library last logged a warning or an error.
#[derive(Default)]
pub(super) struct RepeatedLines(Mutex<HashMap<Identifier, Instant>>);

/// Whether a place may repeat its lines.
fn is_limited(metadata: &Metadata<'_>) -> bool {
    let is_own = metadata.target().starts_with(OURS) || metadata.target() == OTHERS;
    metadata.is_event() && *metadata.level() <= Level::WARN && !is_own
}

impl RepeatedLines {
    fn admits(&self, place: Identifier, now: Instant) -> bool {
        let mut logged = self.0.lock();
        if logged.get(&place).is_some_and(|last| now - *last < EVERY) {
            LEFT_OUT.fetch_add(1, Ordering::Relaxed);
            return false;
        }
        logged.insert(place, now);
        true
    }
}

impl<S> Filter<S> for RepeatedLines {
    fn enabled(&self, metadata: &Metadata<'_>, _: &Context<'_, S>) -> bool {
        !is_limited(metadata) || self.admits(metadata.callsite(), Instant::now())
    }

    fn callsite_enabled(&self, metadata: &'static Metadata<'static>) -> Interest {
        if is_limited(metadata) { Interest::sometimes() } else { Interest::always() }
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        Some(LevelFilter::TRACE)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tracing_subscriber::{Layer, layer::SubscriberExt};

    use super::*;

    /// Counts the events that pass the filter.
    #[derive(Clone, Default)]
    struct Counter(Arc<AtomicU64>);

    impl<S: tracing::Subscriber> Layer<S> for Counter {
        fn on_event(&self, _: &tracing::Event<'_>, _: Context<'_, S>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn warnings_of_libraries_are_not_repeated_and_all_other_lines_are() {
        let counter = Counter::default();
        let layer = counter.clone().with_filter(RepeatedLines::default());
        let counted = |log: &dyn Fn()| {
            counter.0.store(0, Ordering::Relaxed);
            (0..5).for_each(|_| log());
            counter.0.load(Ordering::Relaxed)
        };
        tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), || {
            assert_eq!(counted(&|| tracing::warn!(target: "library", "again")), 1);
            assert_eq!(counted(&|| tracing::error!(target: "library", "again")), 1);
            assert_eq!(counted(&|| tracing::info!(target: "library", "again")), 5);
            assert_eq!(counted(&|| tracing::warn!(target: "batchfleet_gateway", "again")), 5);
        });
        assert_eq!(left_out(), 8);
    }

    #[test]
    fn a_line_is_logged_again_after_a_while() {
        let (lines, now) = (RepeatedLines::default(), Instant::now());
        let place = || tracing::callsite::Identifier(&CALLSITE);
        assert!(lines.admits(place(), now));
        assert!(!lines.admits(place(), now + EVERY / 2));
        assert!(lines.admits(place(), now + EVERY));
    }

    static CALLSITE: TestCallsite = TestCallsite;

    struct TestCallsite;

    impl tracing::Callsite for TestCallsite {
        fn set_interest(&self, _: Interest) {}

        fn metadata(&self) -> &Metadata<'_> {
            unreachable!("only the identity counts")
        }
    }
}
