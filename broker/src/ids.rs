//! Ids of requests, programs, queues and entries.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The id of an accepted request: 128 random bits, drawn by the gateway and never reused.
///
/// The `id` that a client sends is only echoed, because clients may repeat it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RequestId(pub u128);

/// The id of one boot of a gateway process: 128 random bits, which also name its reply channel.
///
/// A restarted gateway gets a new id, so it receives no replies to requests of its previous boot.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct GatewayId(pub u128);

/// The id of one boot of a worker process on one queue: 128 random bits.
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

/// One of the brokers over which the queues of a fleet are distributed. Each shard has its own
/// queues, reply channels and liveness keys.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ShardId(pub u16);

/// The class of a request. Workers fill batches from all classes, mostly from the highest; within a
/// class, older requests come first.
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    Hash,
    PartialOrd,
    Ord,
    strum::EnumCount,
    strum::FromRepr,
)]
#[repr(u8)]
pub enum Priority {
    /// Refused last, served first.
    Critical = 0,
    /// The class of requests without an explicit class.
    #[default]
    Default = 1,
    /// Refused first, served last, but served.
    Sheddable = 2,
}

impl Priority {
    /// Every class, highest first, in the order of its wire code.
    pub const ALL: [Self; <Self as strum::EnumCount>::COUNT] =
        [Self::Critical, Self::Default, Self::Sheddable];

    /// The name in keys, headers and metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Critical => "critical",
            Self::Default => "default",
            Self::Sheddable => "sheddable",
        }
    }

    /// The code on the wire, and the index into arrays by class.
    pub const fn code(self) -> u8 {
        self as u8
    }

    /// The class with this wire code.
    pub const fn from_code(code: u8) -> Option<Self> {
        Self::from_repr(code)
    }
}

impl fmt::Display for Priority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The entry of a job in its queue: the class, which selects the stream, and the id in that stream,
/// `milliseconds-sequence`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EntryId {
    /// The job's class.
    pub priority: Priority,
    /// The broker's clock when the job was added, in milliseconds.
    pub milliseconds: u64,
    /// Distinguishes entries of the same millisecond.
    pub sequence: u64,
    /// The shard with the queue.
    pub shard: ShardId,
}

impl fmt::Display for EntryId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}-{}", self.priority, self.milliseconds, self.sequence)
    }
}

/// The queue of one version of a model. Written `model:version`.
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

    /// Parses the form `model:version`; `None` for a name that is not [valid](Self::is_valid).
    pub fn parse(text: &str) -> Option<Self> {
        let (model, version) = text.split_once(':')?;
        let queue = Self::new(model, version.parse().ok()?);
        (queue.is_valid() && queue.to_string() == text).then_some(queue)
    }

    /// Whether model and version are as their fields describe.
    pub fn is_valid(&self) -> bool {
        is_model_name(&self.model) && self.version > 0
    }
}

/// Whether a text can be the name of a model: 1 to 128 of `[A-Za-z0-9._-]`, not `.` or `..`.
pub fn is_model_name(name: &str) -> bool {
    let letter = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    (1..=128).contains(&name.len()) && name.bytes().all(letter) && !matches!(name, "." | "..")
}

impl fmt::Display for QueueName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.model, self.version)
    }
}
