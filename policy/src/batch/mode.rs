//! Whether N is automatic or set by the user.

use std::{fmt, str::FromStr};

/// How N is chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BatchMode {
    /// From measured batch times and the latency target.
    Auto,
    /// Set by the user.
    Fixed(u32),
}

impl FromStr for BatchMode {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "auto" => Ok(Self::Auto),
            _ => match text.parse() {
                Ok(rows) if rows > 0 => Ok(Self::Fixed(rows)),
                _ => Err("expected auto or a number of rows from 1".to_owned()),
            },
        }
    }
}

impl fmt::Display for BatchMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Fixed(rows) => write!(f, "{rows}"),
        }
    }
}
