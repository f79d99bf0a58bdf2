//! Turns on a device that several models share.
//!
//! A device that runs two models at once slows both down, and L(b) of each would depend on the load of
//! the other. So the engines of one device run one at a time, in the order in which they ask.

use std::{collections::BTreeMap, sync::Arc};

use parking_lot::{FairMutex, FairMutexGuard};

/// The turns on the devices of a worker.
#[derive(Debug, Default)]
pub(crate) struct DeviceTurns(BTreeMap<u16, DeviceTurn>);

/// The turn on one device. All clones are the same turn.
#[derive(Clone, Debug, Default)]
pub(crate) struct DeviceTurn(Arc<FairMutex<()>>);

impl DeviceTurns {
    /// The turn on the device of this number.
    pub(crate) fn of(&mut self, device: u16) -> DeviceTurn {
        self.0.entry(device).or_default().clone()
    }
}

impl DeviceTurn {
    /// Waits for the turn, which lasts until the guard is dropped.
    pub(super) fn wait(&self) -> FairMutexGuard<'_, ()> {
        self.0.lock()
    }
}
