//! Names of the things that travel.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// Identifies one accepted request inside the fleet: 128 random bits, drawn by its gateway.
///
/// The `id` a client sends is only echoed to it; clients repeat theirs, this one is never reused.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RequestId(pub u128);

/// One boot of one gateway process: 128 random bits, which also name its reply channel.
///
/// A restarted gateway gets a new one, so answers to its former life reach nobody.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct GatewayId(pub u128);

/// One consumer: one boot of one worker process reading one queue; 128 random bits.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct WorkerId(pub u128);

macro_rules! random_id {
    ($($id:ident),*) => {$(
        impl $id {
            /// Draws a new id.
            pub fn random() -> Self {
                Self(rand::random())
            }
        }

        impl fmt::Display for $id {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:032x}", self.0)
            }
        }

        impl fmt::Debug for $id {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }
    )*};
}
random_id!(RequestId, GatewayId, WorkerId);

/// The place of a job in its queue: a Redis stream id, `milliseconds-sequence` of the broker's
/// clock at submission.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EntryId {
    /// The broker's clock when the job was added, in milliseconds.
    pub milliseconds: u64,
    /// Tells apart what was added in the same millisecond.
    pub sequence: u64,
}

impl fmt::Display for EntryId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.milliseconds, self.sequence)
    }
}

impl FromStr for EntryId {
    type Err = MalformedName;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let malformed = || MalformedName(text.to_owned());
        let (milliseconds, sequence) = text.split_once('-').ok_or_else(malformed)?;
        Ok(Self {
            milliseconds: milliseconds.parse().map_err(|_| malformed())?,
            sequence: sequence.parse().map_err(|_| malformed())?,
        })
    }
}

/// A model and its version: what one queue serves. Written `model:version`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct QueueName {
    /// The model's name: 1 to 128 characters of `[A-Za-z0-9._-]`.
    pub model: String,
    /// The model's version, a positive number as in Triton's repository layout.
    pub version: u64,
}

impl QueueName {
    /// Names the queue of `model` at `version`.
    pub fn new(model: impl Into<String>, version: u64) -> Self {
        Self { model: model.into(), version }
    }
}

impl fmt::Display for QueueName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.model, self.version)
    }
}

/// Text that is not the name it should be.
#[derive(Debug, thiserror::Error)]
#[error("malformed name {0:?}")]
pub struct MalformedName(String);
