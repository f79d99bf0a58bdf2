//! The keys of an issuer: a JSON web key set.

use jsonwebtoken::{
    Algorithm, AlgorithmFamily, DecodingKey, Header, TokenData, Validation, decode, errors,
    jwk::{AlgorithmParameters, EllipticCurve, Jwk, PublicKeyUse},
};
use serde::Deserialize;
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

/// Maximum number of keys in a set.
const MOST_KEYS: usize = 100;
/// Maximum number of keys that are tried for a token, which may name no key.
const MOST_TRIED: usize = 4;

/// What every token must claim.
#[derive(Clone, Debug)]
pub(super) struct Required {
    pub(super) issuer: String,
    pub(super) audiences: Vec<String>,
    /// Tolerance for the clock of the issuer, in seconds.
    pub(super) clock_skew: u64,
}

/// The keys that verify the tokens of an issuer.
#[derive(Debug)]
pub(super) struct SigningKeys {
    keys: Vec<SigningKey>,
    /// The hash of the document, by which a change is recognized.
    document: [u8; 32],
}

#[derive(Debug)]
struct SigningKey {
    id: Option<String>,
    key: DecodingKey,
    /// The algorithms that this key may verify, and the claims that it requires.
    validation: Validation,
}

#[derive(Deserialize)]
struct Document {
    keys: Vec<Value>,
}

impl SigningKeys {
    /// Reads a JSON web key set. Keys for encryption, shared secrets and keys of unknown types are
    /// ignored.
    ///
    /// # Errors
    ///
    /// The text is no key set, or contains no usable key.
    pub(super) fn parse(text: &[u8], required: &Required) -> Result<Self, String> {
        let Document { keys } = serde_json::from_slice(text)
            .map_err(|error| format!("not a JSON web key set: {error}"))?;
        if keys.len() > MOST_KEYS {
            return Err(format!("the JSON web key set has more than {MOST_KEYS} keys"));
        }
        let usable = keys
            .into_iter()
            .filter_map(|key| SigningKey::of(&serde_json::from_value(key).ok()?, required));
        let keys: Vec<_> = usable.collect();
        if keys.is_empty() {
            return Err("the JSON web key set has no RSA, ECDSA or Ed25519 key".to_owned());
        }
        Ok(Self { keys, document: Sha256::digest(text).into() })
    }

    /// The number of keys.
    pub(super) fn len(&self) -> usize {
        self.keys.len()
    }

    /// Whether both sets are from the same document.
    pub(super) fn is_same(&self, other: &Self) -> bool {
        self.document == other.document
    }

    /// Whether a key fits the key id and the algorithm of a token.
    pub(super) fn knows(&self, header: &Header) -> bool {
        self.fitting(header).next().is_some()
    }

    /// Verifies the signature and the standard claims of a token.
    ///
    /// # Errors
    ///
    /// No key verifies the token. The error is that of the last key which fits the token.
    pub(super) fn verify(
        &self,
        token: &[u8],
        header: &Header,
    ) -> errors::Result<TokenData<Map<String, Value>>> {
        let mut failed = errors::new_error(errors::ErrorKind::InvalidAlgorithm);
        for SigningKey { key, validation, .. } in self.fitting(header) {
            match decode(token, key, validation) {
                Ok(valid) => return Ok(valid),
                Err(error) => failed = error,
            }
        }
        Err(failed)
    }

    fn fitting(&self, header: &Header) -> impl Iterator<Item = &SigningKey> {
        let fitting = self.keys.iter().filter(|key| {
            let names = header.kid.is_none() || key.id == header.kid;
            names && key.validation.algorithms.contains(&header.alg)
        });
        fitting.take(MOST_TRIED)
    }
}

impl SigningKey {
    fn of(jwk: &Jwk, required: &Required) -> Option<Self> {
        if !matches!(jwk.common.public_key_use, None | Some(PublicKeyUse::Signature)) {
            return None;
        }
        let mut algorithms = algorithms(&jwk.algorithm)?;
        if let Some(only) = jwk.common.key_algorithm {
            algorithms.retain(|algorithm| Algorithm::try_from(only).is_ok_and(|a| a == *algorithm));
        }
        let mut validation = Validation::new(*algorithms.first()?);
        validation.algorithms = algorithms;
        validation.leeway = required.clock_skew;
        validation.validate_nbf = true;
        validation.set_issuer(&[&required.issuer]);
        validation.set_audience(&required.audiences);
        validation.set_required_spec_claims(&["exp", "iss", "aud"]);
        let key = DecodingKey::from_jwk(jwk).ok()?;
        Some(Self { id: jwk.common.key_id.clone(), key, validation })
    }
}

/// The algorithms of a type of key; `None` for a type that cannot verify tokens.
fn algorithms(parameters: &AlgorithmParameters) -> Option<Vec<Algorithm>> {
    match parameters {
        AlgorithmParameters::RSA(_) => Some(AlgorithmFamily::Rsa.algorithms().to_vec()),
        AlgorithmParameters::EllipticCurve(key) => match key.curve {
            EllipticCurve::P256 => Some(vec![Algorithm::ES256]),
            EllipticCurve::P384 => Some(vec![Algorithm::ES384]),
            _ => None,
        },
        AlgorithmParameters::OctetKeyPair(key) => {
            (key.curve == EllipticCurve::Ed25519).then(|| vec![Algorithm::EdDSA])
        }
        _ => None,
    }
}
