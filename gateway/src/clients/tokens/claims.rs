//! The meaning of a token's claims.

use std::{collections::HashMap, sync::Arc};

use batchfleet_broker::Priority;
use serde_json::{Map, Value};

use super::super::{
    denial::Denial,
    expiry::Expiry,
    grant::{Grant, class, rate},
};
use super::TokenSettings;

/// The names of the claims that describe a client.
#[derive(Clone, Debug)]
pub(super) struct ClaimNames {
    name: String,
    class: Option<String>,
    models: Option<String>,
    rate: Option<String>,
    default_class: Priority,
    /// Tolerance for the clock of the issuer, in seconds.
    clock_skew: u64,
}

impl ClaimNames {
    /// The names in the settings; a token without a class gets `default_class`.
    pub(super) fn new(settings: &TokenSettings, default_class: Priority) -> Self {
        Self {
            name: settings.jwt_name_claim.clone(),
            class: settings.jwt_class_claim.clone(),
            models: settings.jwt_models_claim.clone(),
            rate: settings.jwt_rate_claim.clone(),
            default_class,
            clock_skew: settings.jwt_clock_skew.as_secs(),
        }
    }

    /// The permissions that verified claims grant.
    ///
    /// # Errors
    ///
    /// [`Denial::Claims`]: a claim has the wrong type, or the name of the client is missing.
    pub(super) fn grant(&self, claims: Map<String, Value>) -> Result<Grant, Denial> {
        let claims = Value::Object(claims);
        let find = |name: &Option<String>| name.as_ref().and_then(|name| find(&claims, name));
        let name = find(&Some(self.name.clone())).and_then(Value::as_str);
        let name = name.filter(|name| !name.is_empty()).ok_or(Denial::Claims)?;
        let mut grant = Grant::of(name.into(), self.default_class);
        if let Some(claim) = find(&self.class) {
            grant.class = claim.as_str().and_then(class).ok_or(Denial::Claims)?;
        }
        if let Some(claim) = find(&self.rate) {
            grant.rate = Some(claim.as_f64().and_then(rate).ok_or(Denial::Claims)?);
        }
        if self.models.is_some() {
            grant.models = Some(find(&self.models).map_or(Ok(Vec::new()), models)?);
        }
        let expires = claims.get("exp").and_then(Value::as_f64).ok_or(Denial::Claims)?;
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "saturates")]
        let expires = (expires as u64).saturating_add(self.clock_skew);
        grant.expires = Some(Expiry(expires));
        Ok(grant)
    }
}

/// The claim of this name, or at this JSON pointer.
fn find<'a>(claims: &'a Value, name: &str) -> Option<&'a Value> {
    claims.get(name).or_else(|| claims.pointer(name))
}

/// The names of models in a claim: an array, or a text separated by spaces.
fn models(claim: &Value) -> Result<Vec<String>, Denial> {
    match claim {
        Value::String(names) => Ok(names.split_whitespace().map(str::to_owned).collect()),
        Value::Array(names) => {
            let names = names.iter().map(|name| name.as_str().map(str::to_owned));
            names.collect::<Option<_>>().ok_or(Denial::Claims)
        }
        _ => Err(Denial::Claims),
    }
}

/// The permissions of tokens that were verified before, by the hash of the token.
#[derive(Debug, Default)]
pub(super) struct Verified(HashMap<[u8; 32], Arc<Grant>>);

/// Maximum number of remembered tokens.
const MOST_TOKENS: usize = 10_000;

impl Verified {
    /// The permissions of a token, if it was verified before.
    pub(super) fn find(&self, hash: &[u8; 32]) -> Option<Arc<Grant>> {
        self.0.get(hash).cloned()
    }

    /// Remembers a verified token. If too many are remembered, the expired ones are removed, or else
    /// all of them.
    pub(super) fn remember(
        &mut self,
        hash: [u8; 32],
        grant: Arc<Grant>,
        is_past: impl Fn(Expiry) -> bool,
    ) {
        if self.0.len() >= MOST_TOKENS {
            self.0.retain(|_, grant| !grant.expires.is_some_and(&is_past));
        }
        if self.0.len() >= MOST_TOKENS {
            self.0.clear();
        }
        self.0.insert(hash, grant);
    }

    /// Forgets all tokens.
    pub(super) fn clear(&mut self) {
        self.0.clear();
    }
}
