//! Reasons for denying a request.

use batchfleet_oip::Problem;

/// The reason why a request is denied.
#[derive(Clone, Copy, Debug, PartialEq, Eq, strum::EnumIter)]
pub(crate) enum Denial {
    /// The request presents no credential that the gateway takes.
    Missing,
    /// The API key is not in the file.
    UnknownKey,
    /// The API key has expired.
    ExpiredKey,
    /// The token is no JSON web token with an asymmetric signature.
    MalformedToken,
    /// No key of the issuer has the id and the algorithm that the token names.
    UnknownSigner,
    /// The signature of the token is wrong.
    Signature,
    /// The token has expired.
    ExpiredToken,
    /// The token is not valid yet.
    EarlyToken,
    /// The token is from another issuer.
    Issuer,
    /// The token is for another audience.
    Audience,
    /// A claim of the token is missing or has the wrong type.
    Claims,
    /// The keys of the issuer have not been read yet.
    NoTokenKeys,
    /// The address of the client has failed to authenticate too often.
    Throttled,
    /// The client is known and may not do this.
    Forbidden,
}

impl Denial {
    /// The bounded name: the `reason` label of metrics.
    pub(crate) const fn reason(self) -> &'static str {
        match self {
            Self::Missing => "missing",
            Self::UnknownKey => "unknown_key",
            Self::ExpiredKey => "expired_key",
            Self::MalformedToken => "malformed_token",
            Self::UnknownSigner => "unknown_signer",
            Self::Signature => "signature",
            Self::ExpiredToken => "expired_token",
            Self::EarlyToken => "early_token",
            Self::Issuer => "issuer",
            Self::Audience => "audience",
            Self::Claims => "claims",
            Self::NoTokenKeys => "no_token_keys",
            Self::Throttled => "throttled",
            Self::Forbidden => "forbidden",
        }
    }

    /// Whether the denial counts as a failed authentication of the client's address.
    pub(super) const fn is_failure(self) -> bool {
        !matches!(self, Self::NoTokenKeys | Self::Throttled | Self::Forbidden)
    }

    /// The response, for a gateway that takes `credentials`.
    pub(super) fn problem(self, credentials: &str) -> Problem {
        let text = match self {
            Self::Missing | Self::UnknownKey => {
                return Problem { message: format!("send {credentials}"), ..unauthorized() };
            }
            Self::ExpiredKey => "the API key has expired",
            Self::MalformedToken => {
                "the token is not a JSON web token with an RSA, ECDSA or Ed25519 signature"
            }
            Self::UnknownSigner => "the token is signed with an unknown key",
            Self::Signature => "the signature of the token is wrong",
            Self::ExpiredToken => "the token has expired",
            Self::EarlyToken => "the token is not valid yet",
            Self::Issuer => "the token is from another issuer",
            Self::Audience => "the token is for another audience",
            Self::Claims => "a claim of the token is missing or has the wrong type",
            Self::NoTokenKeys => {
                return Problem {
                    status: 503,
                    code: "no_token_keys",
                    message: "the keys of the issuer of tokens could not be read yet".to_owned(),
                };
            }
            Self::Throttled | Self::Forbidden => "access denied",
        };
        Problem { message: text.to_owned(), ..unauthorized() }
    }
}

fn unauthorized() -> Problem {
    Problem { status: 401, code: "unauthorized", message: String::new() }
}
