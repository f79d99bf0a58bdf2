//! Reasons for refusing correct requests, and whether a refusal counts against the fleet.

use strum::IntoEnumIterator;

/// The reason why a gateway refuses a correct request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, strum::EnumIter)]
pub(crate) enum RefusalKind {
    /// The request body does not fit into the memory budget.
    BodyBytes,
    /// Redis is almost out of memory.
    BrokerFull,
    /// Redis cannot be reached.
    BrokerUnready,
    /// The caller left before the request was accepted.
    Cancelled,
    /// The client has as many requests in flight as its share allows.
    Concurrency,
    /// This gateway is shutting down.
    Draining,
    /// This gateway has as many requests in flight as `--max-in-flight` allows.
    InFlight,
    /// No worker serves the model, and no controller promises to start one.
    NoWorkers,
    /// The predicted wait in the queue is longer than the request's deadline allows, or as many
    /// requests wait as the model's config allows.
    QueueWait,
    /// The client sends more requests per second than its share allows.
    Quota,
}

/// The attribution of a refusal, which decides whether the refusal counts against the fleet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Blame {
    /// The client, which exceeds its share or has left.
    Client,
    /// The size of the fleet: more workers would have answered the request.
    Capacity,
    /// The state of the fleet: Redis or this gateway is not available.
    Outage,
}

impl RefusalKind {
    /// The bounded name: `x-error-code`, and the `reason` label of metrics.
    pub(crate) const fn code(self) -> &'static str {
        match self {
            Self::BodyBytes => "body_bytes",
            Self::BrokerFull => "broker_full",
            Self::BrokerUnready => "broker_unready",
            Self::Cancelled => "cancelled",
            Self::Concurrency => "concurrency",
            Self::Draining => "draining",
            Self::InFlight => "inflight",
            Self::NoWorkers => "no_workers",
            Self::QueueWait => "queue_wait",
            Self::Quota => "quota",
        }
    }

    /// The attribution of this kind of refusal.
    pub(crate) const fn blame(self) -> Blame {
        match self {
            Self::Cancelled | Self::Concurrency | Self::Quota => Blame::Client,
            Self::BodyBytes
            | Self::BrokerFull
            | Self::InFlight
            | Self::NoWorkers
            | Self::QueueWait => Blame::Capacity,
            Self::BrokerUnready | Self::Draining => Blame::Outage,
        }
    }
}

/// The sorted codes of all refusals that count against the fleet: because of its size or because of
/// its state. Dashboards and alerts count exactly these as missed.
pub fn fleet_refusal_codes() -> Vec<&'static str> {
    let is_fleets = |refusal: &RefusalKind| refusal.blame() != Blame::Client;
    let mut codes: Vec<_> = RefusalKind::iter().filter(is_fleets).map(RefusalKind::code).collect();
    codes.sort_unstable();
    codes
}
