//! What a client may ask for in the head of an inference request, the same over every protocol.

use std::time::Duration;

use batchfleet_broker::{Priority, Release, Timing};
use batchfleet_oip::{
    Problem,
    infer::{InferRequest, Outline},
};

use crate::clients;

/// The deadline of one request, in milliseconds.
pub(crate) const TIMEOUT: &str = "x-request-timeout-ms";
/// The priority class of one request, by name.
pub(crate) const PRIORITY: &str = "x-priority";
/// In a request, asks for the header of the same name in the response, which describes the request's
/// batch.
pub(crate) const BATCH: &str = "x-batch";

/// What the head of a request asks for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Wishes {
    timeout: Option<Duration>,
    class: Option<Priority>,
}

impl Wishes {
    /// Reads the values of [`TIMEOUT`] and [`PRIORITY`].
    ///
    /// # Errors
    ///
    /// 400 `bad_parameter`
    pub(crate) fn read(timeout: Option<&str>, class: Option<&str>) -> Result<Self, Problem> {
        Ok(Self {
            timeout: timeout.map(self::timeout).transpose()?,
            class: class.map(self::class).transpose()?,
        })
    }

    /// Limits the time of the request further.
    #[must_use]
    pub(crate) fn within(self, timeout: Option<Duration>) -> Self {
        Self { timeout: self.timeout.into_iter().chain(timeout).min(), ..self }
    }

    /// Applies the wishes: the shortest timeout counts, and the class of the head.
    pub(crate) fn apply(self, request: &mut InferRequest) {
        self.apply_to(&mut request.timeout, &mut request.priority);
    }

    /// Applies the wishes to a request of which only the outline is known.
    pub(crate) fn apply_early(self, outline: &mut Outline) {
        self.apply_to(&mut outline.timeout, &mut outline.priority);
    }

    fn apply_to(self, timeout: &mut Option<Duration>, priority: &mut Priority) {
        *timeout = timeout.iter().copied().chain(self.timeout).min();
        *priority = self.class.unwrap_or(*priority);
    }
}

fn timeout(text: &str) -> Result<Duration, Problem> {
    match text.parse::<u64>() {
        Ok(millis) if millis > 0 => Ok(Duration::from_millis(millis)),
        _ => {
            Err(Problem::bad("bad_parameter", format!("{TIMEOUT} must be a whole number above 0")))
        }
    }
}

fn class(name: &str) -> Result<Priority, Problem> {
    clients::class(name).ok_or_else(|| {
        let message = format!("{PRIORITY} must be critical, default or sheddable");
        Problem::bad("bad_parameter", message)
    })
}

/// Describes the batch, as a dictionary of RFC 8941: the rows of the batch, the rows of padding, and
/// the reason for the batch's release; in milliseconds, the request's wait for a worker, its wait for
/// the batch to begin, and the run time of the model.
pub(crate) fn batch(timing: &Timing) -> String {
    let release = timing.release.map_or("none", Release::name);
    let [queue, wait, run] = [timing.queue, timing.batch_wait, timing.compute_infer]
        .map(|time| time.as_secs_f64() * 1e3);
    let Timing { batch_rows, padded_rows, .. } = timing;
    format!(
        "rows={batch_rows}, padding={padded_rows}, release={release}, queue-ms={queue:.3}, \
         wait-ms={wait:.3}, run-ms={run:.3}"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wrong_wishes_are_refused() {
        let read = |timeout, class| Wishes::read(timeout, class);
        assert_eq!(read(None, None), Ok(Wishes::default()));
        let both = read(Some("20"), Some("Critical")).unwrap();
        assert_eq!(both.timeout, Some(Duration::from_millis(20)));
        assert_eq!(both.class, Some(Priority::Critical));
        for timeout in ["0", "-1", "1.5", "", "1s"] {
            assert_eq!(read(Some(timeout), None).unwrap_err().code, "bad_parameter", "{timeout}");
        }
        assert_eq!(read(None, Some("urgent")).unwrap_err().code, "bad_parameter");
    }

    #[test]
    fn the_shortest_timeout_counts() {
        let (short, long) = (Duration::from_millis(5), Duration::from_millis(20));
        let wishes = Wishes::read(Some("20"), None).unwrap();
        assert_eq!(wishes.within(Some(short)).timeout, Some(short));
        assert_eq!(wishes.within(None).timeout, Some(long));
    }
}
