//! Who asks, and how much they may: API keys, shares of clients, classes.

mod address;
mod fairness;
mod keys;
mod settings;

use std::{
    fs, io,
    net::IpAddr,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock},
};

use actix_web::{
    dev::RequestHead,
    http::header::{self, HeaderMap},
};
use batchfleet_broker::Priority;
use tokio::{
    task::spawn_blocking,
    time::{Duration, Instant, interval},
};
use tracing::{error, info};

pub(crate) use self::keys::class;
pub use self::settings::ClientSettings;
use self::{
    address::Network,
    fairness::{Allowance, Excess, Fairness, Who},
    keys::{Grant, Keys},
};
use batchfleet_oip::Problem;

use crate::error::InferError;

/// How often the file of keys is looked at.
const RELOAD: Duration = Duration::from_secs(5);
/// The most clients that are told apart at a time; the rest share what one may have.
const MOST_CLIENTS: usize = 100_000;

/// Why the keys cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum KeysError {
    /// The file is not there, or not for us.
    #[error("cannot read --api-keys {}: {}", .0.display(), .1)]
    Unreadable(PathBuf, #[source] io::Error),
    /// A line of it is wrong.
    #[error("--api-keys {}, {}", .0.display(), .1)]
    Malformed(PathBuf, String),
}

/// Everyone who may ask, and what each has asked for lately.
#[derive(Debug)]
pub(crate) struct Clients {
    keys: Option<KeyFile>,
    proxies: Vec<Network>,
    allowance: Allowance,
    fairness: Mutex<Fairness>,
}

/// Keys, and the file they follow.
#[derive(Debug)]
struct KeyFile {
    path: PathBuf,
    keys: RwLock<Arc<Keys>>,
}

impl KeyFile {
    fn open(path: PathBuf) -> Result<Self, KeysError> {
        let keys = RwLock::new(Arc::new(read(&path)?));
        Ok(Self { path, keys })
    }
}

/// One who asks.
#[derive(Debug)]
pub(crate) struct Client {
    who: Who,
    /// What its key allows; without keys, everything.
    grant: Option<Arc<Grant>>,
}

impl Client {
    /// Whether this model is there for it.
    pub(crate) fn may_use(&self, model: &str) -> bool {
        let models = self.grant.as_ref().and_then(|grant| grant.models.as_ref());
        models.is_none_or(|models| models.iter().any(|name| name == model))
    }

    /// The class it gets when it wants this one: never higher than its key allows.
    pub(crate) fn class(&self, wanted: Priority) -> Priority {
        self.grant.as_ref().map_or(wanted, |grant| wanted.max(grant.class))
    }
}

/// A request that counts as in flight for its client until this is dropped.
#[derive(Debug)]
pub(crate) struct Seat {
    clients: Arc<Clients>,
    who: Who,
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.clients.fairness().leave(&self.who);
    }
}

impl Clients {
    /// Reads the keys, if there are to be any.
    ///
    /// # Errors
    ///
    /// [`KeysError`]
    pub(crate) fn new(settings: &ClientSettings) -> Result<Arc<Self>, KeysError> {
        let keys = match &settings.api_keys {
            Some(path) => Some(KeyFile::open(path.clone())?),
            None => None,
        };
        if keys.is_none() {
            info!("anyone may ask: no --api-keys");
        }
        let (rate, in_flight) = (settings.client_rate, settings.client_in_flight);
        Ok(Arc::new(Self {
            keys,
            proxies: settings.trusted_proxies.clone(),
            allowance: Allowance { rate, in_flight },
            fairness: Mutex::new(Fairness::new(MOST_CLIENTS, Instant::now())),
        }))
    }

    /// Tells who sent a request: by its key where keys are asked for, else by its address.
    ///
    /// # Errors
    ///
    /// 401 `unauthorized`: no key, or none of ours.
    pub(crate) fn identify(&self, head: &RequestHead) -> Result<Client, InferError> {
        let Some(file) = &self.keys else {
            return Ok(Client { who: self.address(head), grant: None });
        };
        let keys = file.keys.read().unwrap_or_else(PoisonError::into_inner).clone();
        let grant = presented(head.headers()).and_then(|key| keys.find(key)).cloned();
        let grant = grant.ok_or_else(|| Problem {
            status: 401,
            code: "unauthorized",
            message: "send a valid key as x-api-key, or as authorization: Bearer".to_owned(),
        })?;
        Ok(Client { who: Who::Key(grant.name.clone()), grant: Some(grant) })
    }

    fn address(&self, head: &RequestHead) -> Who {
        let peer = head.peer_addr.map_or(IpAddr::from([0; 4]), |peer| peer.ip());
        let forwarded = head.headers().get_all(header::X_FORWARDED_FOR);
        let forwarded: Vec<_> = forwarded.map(|value| value.to_str().unwrap_or("?")).collect();
        Who::Address(address::network_of(address::behind(peer, &forwarded, &self.proxies)))
    }

    /// Lets a request of `client` in, if that is within its share.
    ///
    /// # Errors
    ///
    /// [`InferError::Quota`] and [`InferError::Concurrency`].
    pub(crate) fn admit(
        self: &Arc<Self>,
        client: &Client,
        now: Instant,
    ) -> Result<Option<Seat>, InferError> {
        let grant = client.grant.as_deref();
        let allowance = Allowance {
            rate: grant.and_then(|grant| grant.rate).unwrap_or(self.allowance.rate),
            in_flight: grant.and_then(|grant| grant.in_flight).unwrap_or(self.allowance.in_flight),
        };
        if allowance.is_unlimited() {
            return Ok(None);
        }
        match self.fairness().admit(&client.who, allowance, now) {
            Ok(who) => Ok(Some(Seat { clients: self.clone(), who })),
            Err(Excess::Rate(wait)) => Err(InferError::Quota(wait)),
            Err(Excess::InFlight) => Err(InferError::Concurrency),
        }
    }

    fn fairness(&self) -> MutexGuard<'_, Fairness> {
        self.fairness.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Task: takes over what changes in the file of keys. One that cannot be used changes nothing.
    pub(crate) async fn follow(self: Arc<Self>) {
        let Some(KeyFile { path, keys }) = &self.keys else { return };
        let mut ticks = interval(RELOAD);
        let mut failed = false;
        loop {
            ticks.tick().await;
            let path = path.clone();
            match spawn_blocking(move || read(&path)).await {
                Ok(Ok(new)) => {
                    let mut keys = keys.write().unwrap_or_else(PoisonError::into_inner);
                    if **keys != new {
                        info!(keys = new.len(), "the API keys have changed");
                        *keys = Arc::new(new);
                    }
                    failed = false;
                }
                Ok(Err(error)) if !failed => {
                    error!(%error, "the API keys stay as they were");
                    failed = true;
                }
                _ => {}
            }
        }
    }
}

/// The key that a request shows.
fn presented(headers: &HeaderMap) -> Option<&[u8]> {
    if let Some(key) = headers.get("x-api-key") {
        return Some(key.as_bytes());
    }
    let value = headers.get(header::AUTHORIZATION)?.as_bytes();
    let (scheme, key) = value.split_at_checked("Bearer ".len())?;
    scheme.eq_ignore_ascii_case(b"Bearer ").then(|| key.trim_ascii())
}

fn read(path: &Path) -> Result<Keys, KeysError> {
    let text =
        fs::read_to_string(path).map_err(|error| KeysError::Unreadable(path.to_owned(), error))?;
    Keys::parse(&text).map_err(|line| KeysError::Malformed(path.to_owned(), line))
}
