//! Messages that switch something on.

use serde::{Deserialize, Serialize};

/// A message with the only field `enable`: `ModelResponseCache`, `PinnedMemoryBuffer`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Switch {
    pub(crate) enable: bool,
}
