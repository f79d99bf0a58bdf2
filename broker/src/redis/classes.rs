//! Which classes of a queue are in use.

use std::time::Duration;

use tokio::time::Instant;

use crate::Priority;

/// How long a class counts as in use after a job was seen in it. The first job after that time may
/// have to wait for one full batch of another class.
const IN_USE: Duration = Duration::from_secs(10);

/// One value per class, highest class first.
pub(super) type PerClass<T> = [T; Priority::ALL.len()];

/// When a job was last seen in each class.
#[derive(Default)]
pub(super) struct ClassUse(PerClass<Option<Instant>>);

impl ClassUse {
    /// Records that the stream of this class contains jobs.
    pub(super) fn seen(&mut self, class: usize) {
        self.0[class] = Some(Instant::now());
    }

    /// The only class in use; `None` if several classes or no classes are in use.
    pub(super) fn only(&self) -> Option<usize> {
        let mut classes = self.used();
        classes.next().filter(|_| classes.next().is_none())
    }

    /// How many classes are in use.
    pub(super) fn in_use(&self) -> usize {
        self.used().count()
    }

    fn used(&self) -> impl Iterator<Item = usize> {
        let in_use = |seen: &Option<Instant>| seen.is_some_and(|seen| seen.elapsed() < IN_USE);
        (0..self.0.len()).filter(move |&class| in_use(&self.0[class]))
    }
}
