//! JSON web tokens (JWT) of one issuer, as of an OIDC provider.

mod claims;
mod crypto;
mod keys;
mod settings;
mod source;
#[cfg(test)]
mod tests;

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, SystemTime},
};

use batchfleet_broker::Priority;
use batchfleet_service::InvalidSettings;
use jsonwebtoken::{decode_header, errors::ErrorKind};
use parking_lot::RwLock;
use sha2::{Digest, Sha256};
use tokio::{
    sync::{Notify, watch},
    time::{Instant, sleep, sleep_until, timeout},
};
use tracing::info;

pub use self::settings::TokenSettings;
use self::{
    claims::{ClaimNames, Verified},
    keys::{Required, SigningKeys},
    source::Source,
};
use super::{denial::Denial, grant::Grant};
use crate::{metrics::AccessMetrics, reload::Reloaded};

/// How long a request waits for the keys to be read again. Longer than the least interval between two
/// reads, so that every request waits for a read that begins after it has arrived.
const PATIENCE: Duration = Duration::from_secs(4);

/// Verifies the tokens of one issuer.
#[derive(Debug)]
pub(super) struct Tokens {
    source: Source,
    required: Required,
    claims: ClaimNames,
    /// The keys, once they have been read.
    keys: RwLock<Option<Arc<SigningKeys>>>,
    verified: RwLock<Verified>,
    /// Wakes the task that reads the keys.
    wanted: Notify,
    /// The number of reads that have begun.
    begun: AtomicU64,
    /// The number of reads that have ended.
    ended: watch::Sender<u64>,
}

impl Tokens {
    /// The verifier that the settings describe; `None` if the gateway takes no tokens.
    ///
    /// # Errors
    ///
    /// A setting is wrong.
    pub(super) fn new(
        settings: &TokenSettings,
        default_class: Priority,
    ) -> Result<Option<Self>, InvalidSettings> {
        let Some(issuer) = settings.jwt_issuer.clone() else { return Ok(None) };
        let Some(source) = Source::of(settings)? else { return Ok(None) };
        crypto::install();
        Ok(Some(Self {
            source,
            required: Required {
                issuer,
                audiences: settings.jwt_audience.clone(),
                clock_skew: settings.jwt_clock_skew.as_secs(),
            },
            claims: ClaimNames::new(settings, default_class),
            keys: RwLock::default(),
            verified: RwLock::default(),
            wanted: Notify::new(),
            begun: AtomicU64::new(0),
            ended: watch::Sender::new(0),
        }))
    }

    /// Checks that the keys can be used if they are in a file.
    fn check(&self) -> Result<(), InvalidSettings> {
        let Source::File(path) = &self.source else { return Ok(()) };
        let keys = source::read_file(path).and_then(|text| {
            SigningKeys::parse(&text, &self.required)
                .map_err(|error| format!("--jwt-jwks-file {}: {error}", path.display()))
        });
        keys.map(drop).map_err(InvalidSettings::new)
    }

    /// Reads the keys for the first time. If this fails, [`follow`](Self::follow) tries again.
    pub(super) async fn prepare(&self, metrics: &AccessMetrics) {
        self.read(&mut Reloaded::new("token keys", metrics.reload_failures("jwks"))).await;
    }

    /// The permissions that a token grants. With `only_known`, only a token that was verified before
    /// is accepted: verifying a signature takes longer than anything else here.
    ///
    /// # Errors
    ///
    /// The reason why the token is refused.
    pub(super) fn verify(&self, token: &[u8], only_known: bool) -> Result<Arc<Grant>, Denial> {
        let now = SystemTime::now();
        let hash: [u8; 32] = Sha256::digest(token).into();
        let known = self.verified.read().find(&hash);
        if let Some(grant) = known {
            return match grant.expires {
                Some(expiry) if expiry.is_past(now) => Err(Denial::ExpiredToken),
                _ => Ok(grant),
            };
        }
        if only_known {
            return Err(Denial::Throttled);
        }
        let keys = self.keys.read().clone().ok_or(Denial::NoTokenKeys)?;
        let header = decode_header(token).map_err(|_| Denial::MalformedToken)?;
        if !keys.knows(&header) {
            return Err(Denial::UnknownSigner);
        }
        let valid = keys.verify(token, &header).map_err(|error| denial(error.kind()))?;
        let grant = Arc::new(self.claims.grant(valid.claims)?);
        let current = self.keys.read();
        if current.as_ref().is_some_and(|current| Arc::ptr_eq(current, &keys)) {
            let mut verified = self.verified.write();
            verified.remember(hash, grant.clone(), |expiry| expiry.is_past(now));
        }
        Ok(grant)
    }

    /// Waits until the keys have been read again: an issuer may sign with a new key as soon as it has
    /// published the key.
    pub(super) async fn look_again(&self) {
        let next = self.begun.load(Relaxed) + 1;
        let mut ended = self.ended.subscribe();
        self.wanted.notify_one();
        // After the timeout the token is refused with the present keys.
        timeout(PATIENCE, ended.wait_for(|ended| *ended >= next)).await.ok();
    }

    /// Task: reads the keys regularly, and when a token names an unknown one.
    pub(super) async fn follow(&self, metrics: &AccessMetrics) {
        let mut reloaded = Reloaded::new("token keys", metrics.reload_failures("jwks"));
        loop {
            let number = self.begun.fetch_add(1, Relaxed) + 1;
            let least = Instant::now() + self.source.least_interval();
            let succeeded = self.read(&mut reloaded).await;
            self.ended.send_replace(number);
            tokio::select! {
                () = sleep(self.source.interval(succeeded)) => {}
                () = self.wanted.notified() => sleep_until(least).await,
            }
        }
    }

    /// Reads the keys. Returns whether this succeeded.
    async fn read(&self, reloaded: &mut Reloaded) -> bool {
        let parsed = match self.source.read().await {
            Ok(text) => SigningKeys::parse(&text, &self.required),
            Err(error) => Err(error),
        };
        let parsed = reloaded.judge(parsed);
        let succeeded = parsed.is_some();
        if let Some(keys) = parsed {
            self.adopt(keys);
        }
        succeeded
    }

    fn adopt(&self, new: SigningKeys) {
        let mut keys = self.keys.write();
        if keys.as_ref().is_some_and(|keys| keys.is_same(&new)) {
            return;
        }
        info!(keys = new.len(), "reloaded token keys");
        *keys = Some(Arc::new(new));
        // A token whose key was removed must be refused from now on.
        self.verified.write().clear();
    }
}

/// The reason for refusing a token that no key verifies.
fn denial(error: &ErrorKind) -> Denial {
    match error {
        ErrorKind::InvalidSignature => Denial::Signature,
        ErrorKind::ExpiredSignature => Denial::ExpiredToken,
        ErrorKind::ImmatureSignature => Denial::EarlyToken,
        ErrorKind::InvalidIssuer => Denial::Issuer,
        ErrorKind::InvalidAudience => Denial::Audience,
        ErrorKind::MissingRequiredClaim(_) | ErrorKind::InvalidClaimFormat(_) => Denial::Claims,
        _ => Denial::MalformedToken,
    }
}
