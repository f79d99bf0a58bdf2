//! State shared by the HTTP handlers.

use std::sync::Arc;

use batchfleet_service::Readiness;

use crate::{
    access::AccessLog, ask::Core, body::Bounds, live::state::Live, memory::MemoryBudget,
    offload::Offload, trace::Traces,
};

/// State that every HTTP handler reads.
pub(crate) struct Api {
    pub(crate) core: Arc<Core>,
    pub(crate) body: Bounds,
    /// The memory of bodies.
    pub(crate) budget: Arc<MemoryBudget>,
    /// The memory of connections, without bodies.
    pub(crate) connection_memory: Arc<MemoryBudget>,
    pub(crate) offload: Offload,
    pub(crate) readiness: Readiness,
    /// Whether this gateway counts as ready only while every known model is ready.
    pub(crate) strict_readiness: bool,
    pub(crate) access_log: AccessLog,
    pub(crate) live: Live,
    pub(crate) traces: Traces,
}
