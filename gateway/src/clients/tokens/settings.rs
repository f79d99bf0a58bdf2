//! Settings of JSON web tokens.

use std::{path::PathBuf, time::Duration};

use batchfleet_broker::Priority;
use batchfleet_service::{InvalidSettings, settings::duration};
use clap::Args;

use super::Tokens;

/// Which JSON web tokens are accepted, and the meaning of their claims.
#[derive(Args, Clone, Debug)]
pub struct TokenSettings {
    /// Accept JSON web tokens of this issuer, the value of the claim `iss`, sent as `authorization:
    /// Bearer`. Signatures are RSA, ECDSA (P-256, P-384) or Ed25519. Without another setting for the
    /// keys, the gateway reads them from the URL that the issuer's metadata name
    /// (ISSUER/.well-known/openid-configuration)
    #[arg(long, env = "BATCHFLEET_JWT_ISSUER", requires = "jwt_audience", value_name = "ISSUER")]
    pub jwt_issuer: Option<String>,

    /// The audiences of which a token must name one in the claim `aud`; several are separated by
    /// commas
    #[arg(
        long,
        env = "BATCHFLEET_JWT_AUDIENCE",
        requires = "jwt_issuer",
        value_delimiter = ',',
        value_name = "AUDIENCE"
    )]
    pub jwt_audience: Vec<String>,

    /// URL of the issuer's keys, a JSON web key set [default: that of the issuer's metadata]. The gateway reads it again every 5 minutes, and
    /// when a token names an unknown key, at most once in 2 seconds
    #[arg(
        long,
        env = "BATCHFLEET_JWT_JWKS_URL",
        requires = "jwt_issuer",
        group = "jwks",
        value_name = "URL"
    )]
    pub jwt_jwks_url: Option<String>,

    /// A file with the issuer's keys, in place of the URL. Changes take effect within 5 seconds
    #[arg(
        long,
        env = "BATCHFLEET_JWT_JWKS_FILE",
        requires = "jwt_issuer",
        group = "jwks",
        value_name = "FILE"
    )]
    pub jwt_jwks_file: Option<PathBuf>,

    /// PEM file with the CA certificates that the certificates of the issuer and of --jwt-jwks-url are
    /// verified with [default: the system's]
    #[arg(
        long,
        env = "BATCHFLEET_JWT_JWKS_CA",
        requires = "jwt_issuer",
        conflicts_with = "jwt_jwks_file",
        value_name = "FILE"
    )]
    pub jwt_jwks_ca: Option<PathBuf>,

    /// How far the clock of the issuer may differ
    #[arg(
        long,
        env = "BATCHFLEET_JWT_CLOCK_SKEW",
        default_value = "60s",
        value_name = "DURATION",
        value_parser = duration
    )]
    pub jwt_clock_skew: Duration,

    /// The claim with the name of the client. A name that begins with `/` is a JSON pointer to a
    /// nested claim, such as `/realm_access/roles`
    #[arg(long, env = "BATCHFLEET_JWT_NAME_CLAIM", default_value = "sub", value_name = "CLAIM")]
    pub jwt_name_claim: String,

    /// The claim with the highest priority class of the client's requests; a token without it gets
    /// --default-class
    #[arg(long, env = "BATCHFLEET_JWT_CLASS_CLAIM", value_name = "CLAIM")]
    pub jwt_class_claim: Option<String>,

    /// The claim with the only models that the client may use: an array, or one text with names
    /// separated by spaces. A token without it may use no model [default: no claim, all models]
    #[arg(long, env = "BATCHFLEET_JWT_MODELS_CLAIM", value_name = "CLAIM")]
    pub jwt_models_claim: Option<String>,

    /// The claim with the requests per second that the client may send, in place of --client-rate
    #[arg(long, env = "BATCHFLEET_JWT_RATE_CLAIM", value_name = "CLAIM")]
    pub jwt_rate_claim: Option<String>,
}

/// No tokens are accepted.
impl Default for TokenSettings {
    fn default() -> Self {
        Self {
            jwt_issuer: None,
            jwt_audience: Vec::new(),
            jwt_jwks_url: None,
            jwt_jwks_file: None,
            jwt_jwks_ca: None,
            jwt_clock_skew: Duration::from_mins(1),
            jwt_name_claim: "sub".to_owned(),
            jwt_class_claim: None,
            jwt_models_claim: None,
            jwt_rate_claim: None,
        }
    }
}

impl TokenSettings {
    /// Checks that the keys can be used if they are in a file. A URL may be unreachable for a while.
    pub(in crate::clients) fn check(&self) -> Result<(), InvalidSettings> {
        let tokens = Tokens::new(self, Priority::Default)?;
        tokens.map_or(Ok(()), |tokens| tokens.check())
    }
}
