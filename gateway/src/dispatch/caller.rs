//! The callers of outstanding requests.

use std::sync::Arc;

use parking_lot::Mutex;

use crate::{ledger::Ledger, mailbox::Address, model::Model};

/// The ledger that the parts of a dispatcher share.
pub(super) type SharedLedger = Arc<Mutex<Ledger<Caller>>>;

/// The caller of one outstanding request.
pub(super) struct Caller {
    /// The model version of the request.
    pub(super) model: Arc<Model>,
    /// Rows of the request.
    pub(super) rows: u32,
    /// Where the caller waits for the answer.
    pub(super) address: Address,
}
