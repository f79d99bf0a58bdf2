//! What a gateway asks at each look: whether the fleet may have changed since its last read.

use redis::{Pipeline, Value};

use super::{
    errors::broker_error,
    keys::Keys,
    values::{milliseconds, parse},
};
use crate::BrokerError;

/// What changes with the fleet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Look {
    /// Redis's clock in milliseconds.
    pub(super) at: u64,
    pub(super) epoch: Option<String>,
    /// The counter that changes when a worker comes or goes; `None` before the first.
    pub(super) changes: Option<String>,
    /// Whether this program may read the counter: the rights of an earlier version do not include it.
    pub(super) may_count: bool,
}

impl Look {
    /// Adds the questions of a look.
    pub(super) fn ask(keys: Keys, commands: &mut Pipeline) {
        commands.cmd("TIME").get(keys.epoch()).get(keys.changes());
    }

    /// Reads the answers to [`ask`](Self::ask).
    pub(super) fn read(answers: &mut impl Iterator<Item = Value>) -> Result<Self, BrokerError> {
        let at = milliseconds(parse(answers.next()).map_err(broker_error)?);
        let epoch = parse(answers.next()).map_err(broker_error)?;
        let changes: Result<Option<String>, _> = parse(answers.next());
        let may_count = changes.is_ok();
        Ok(Self { at, epoch, changes: changes.unwrap_or_default(), may_count })
    }

    /// Whether no worker has come or gone between this look and one with this epoch and counter.
    pub(super) fn is_of(&self, epoch: Option<&String>, changes: Option<&String>) -> bool {
        self.may_count && (self.epoch.as_ref(), self.changes.as_ref()) == (epoch, changes)
    }
}
