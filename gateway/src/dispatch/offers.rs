//! Tensors that do not travel through the queue: the gateway offers inputs, and workers fetch them at
//! the port for workers (`tensor_port`), where they also push outputs.

use std::{
    net::{IpAddr, SocketAddr},
    sync::{Arc, OnceLock},
};

use batchfleet_broker::{
    Job, Offer, Tensor,
    offer::{Item, data_digest},
};
use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::caller::SharedLedger;
use crate::{ledger::TakenOutputs, model::Model, tensor_port::OpenRequests};

/// Bytes per permit of the memory for outputs.
const PERMIT: usize = 1 << 10;

/// Decides which inputs are offered. Offers nothing before it is opened.
#[derive(Default)]
pub(crate) struct Offers {
    terms: OnceLock<Terms>,
    /// Where workers reach the port.
    address: OnceLock<SocketAddr>,
}

struct Terms {
    /// The least bytes of inputs that are offered.
    from: usize,
    port: u16,
}

impl Offers {
    /// Offers inputs from `from` bytes on at `address`. If that has no IP address, offers begin when
    /// it is [known](Self::reached_at).
    pub(super) fn open(&self, from: usize, address: SocketAddr) {
        self.terms.get_or_init(|| Terms { from, port: address.port() });
        self.reached_at(address.ip());
    }

    /// Records at which address of this machine workers reach it.
    pub(super) fn reached_at(&self, ip: IpAddr) {
        if let (Some(terms), false) = (self.terms.get(), ip.is_unspecified()) {
            self.address.get_or_init(|| SocketAddr::new(ip, terms.port));
        }
    }

    /// The offer for a new job; `None` if its inputs are small and the last outputs were, or if a worker
    /// that may get the job does not fetch inputs.
    pub(super) fn offer(&self, model: &Model, inputs: &[Tensor]) -> Option<Offer> {
        let (terms, address) = (self.terms.get()?, self.address.get()?);
        let bytes: usize = inputs.iter().map(|input| input.data.len()).sum();
        let is_large = |bytes: usize| bytes >= terms.from.max(1);
        if !(is_large(bytes) || is_large(model.last_outputs())) || !model.fetches() {
            return None;
        }
        let offer = Offer::of(inputs, *address);
        let lengths = if is_large(bytes) { offer.lengths } else { Vec::new() };
        Some(Offer { lengths, ..offer })
    }
}

/// The outstanding requests of this gateway, whose inputs workers fetch and whose outputs they push.
#[derive(Clone)]
pub(crate) struct OfferedRequests {
    pub(super) ledger: SharedLedger,
    room: Arc<Semaphore>,
}

impl OfferedRequests {
    /// Takes outputs of at most `most` bytes at a time.
    pub(super) fn new(ledger: SharedLedger, most: usize) -> Self {
        let permits = (most / PERMIT).min(Semaphore::MAX_PERMITS);
        Self { ledger, room: Arc::new(Semaphore::new(permits)) }
    }
}

impl OpenRequests for OfferedRequests {
    fn find(&self, item: Item) -> Option<Arc<Job>> {
        self.ledger.lock().offered(item)
    }

    fn room(&self, item: Item, bytes: u64) -> Option<OwnedSemaphorePermit> {
        if !self.ledger.lock().takes_outputs(item) {
            return None;
        }
        let permits = u32::try_from(bytes.div_ceil(PERMIT as u64)).ok()?;
        Arc::clone(&self.room).try_acquire_many_owned(permits).ok()
    }

    fn put(&self, item: Item, data: Bytes, room: OwnedSemaphorePermit) {
        let digest = data_digest([&data[..]].into_iter());
        self.ledger.lock().put_outputs(item, TakenOutputs { data, digest, _room: room });
    }
}
