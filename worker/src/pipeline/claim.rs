//! What is known of the claims of a pipeline, and when the next is made.

use tokio::time::Instant;

/// What the last claim found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LastClaim {
    /// The queue was empty for a second, which the pipeline does not know.
    Empty,
    /// Fewer jobs than requested.
    Some,
    /// As many jobs as requested. More may wait.
    Full,
}

/// The plan of a claim during a run.
#[derive(Clone, Copy, Debug)]
pub(super) struct ClaimAhead {
    /// When to claim.
    pub(super) at: Instant,
    /// How the next batch is formed, if it is formed during the run.
    pub(super) forming: Option<Forming>,
}

/// The plan of a batch that is formed during a run.
#[derive(Clone, Copy, Debug)]
pub(super) struct Forming {
    /// From when on to claim all jobs that come.
    pub(super) tops_up_at: Instant,
    /// When the run should end.
    pub(super) until: Instant,
}

/// The jobs that could run after the current run, as far as they are known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Waiting {
    /// None.
    Nothing,
    /// More jobs than the last claim asked for.
    InQueue,
    /// The worker holds some, which can run together.
    Held,
    /// The worker holds some, and not all of them can run together.
    Mixed,
}
