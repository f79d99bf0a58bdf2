//! The protocol that the clients of a load speak.

use batchfleet_loadgen::{LoadError, Target, infer::Encoding};

/// The scheme in the URL of a port that speaks gRPC.
const GRPC: &str = "grpc://";

/// The protocol that the clients of a load speak.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Protocol {
    #[default]
    Http,
    Grpc,
}

impl Protocol {
    /// The URL of a port that speaks this protocol.
    pub(crate) fn url(self, address: impl std::fmt::Display) -> String {
        match self {
            Self::Http => format!("http://{address}"),
            Self::Grpc => format!("{GRPC}{address}"),
        }
    }

    /// How clients of this protocol send tensors.
    pub(crate) fn encoding(self) -> Encoding {
        match self {
            Self::Http => Encoding::Binary,
            Self::Grpc => Encoding::Grpc,
        }
    }

    /// The protocol in a URL.
    pub(crate) fn of(url: &str) -> Self {
        if url.starts_with(GRPC) { Self::Grpc } else { Self::Http }
    }
}

/// The target with this URL.
pub(crate) fn target(url: &str) -> Result<Target, LoadError> {
    match url.strip_prefix(GRPC) {
        Some(address) => Ok(format!("http://{address}").parse::<Target>()?.over_grpc()),
        None => url.parse(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_names_its_protocol() {
        for protocol in [Protocol::Http, Protocol::Grpc] {
            let url = protocol.url("127.0.0.1:1");
            assert_eq!(Protocol::of(&url), protocol);
            assert_eq!(target(&url).unwrap().to_string(), "127.0.0.1:1");
        }
    }
}
