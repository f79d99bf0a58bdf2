//! Access control: identifies the client of a request, and enforces its permissions and its share.

mod address;
mod denial;
mod expiry;
mod fairness;
mod grant;
mod key_file;
mod key_lines;
mod key_toml;
mod keys;
mod settings;
#[cfg(test)]
mod tests;
mod throttle;
mod tokens;

use std::{net::IpAddr, sync::Arc, time::SystemTime};

use batchfleet_broker::Priority;
use batchfleet_service::{InvalidSettings, LogThrottle};
use parking_lot::Mutex;
use tokio::time::Instant;
use tracing::{debug, warn};

use self::{
    address::Network,
    expiry::Expiry,
    fairness::{Allowance, ClientId, Excess, Fairness},
    grant::Grant,
    key_file::KeyFile,
    throttle::Throttle,
    tokens::Tokens,
};
pub(crate) use self::{address::network_of, denial::Denial, grant::class};
pub use self::{key_file::KeysError, settings::ClientSettings, tokens::TokenSettings};
use crate::{error::InferError, metrics::AccessMetrics};

/// Maximum number of clients with a share of their own; all other clients have one share together.
const MOST_CLIENTS: usize = 100_000;
/// How many times more often than it gets 429 an address must fail, so that its new tokens are not
/// verified: clients behind one address should not lock each other out.
const FLOOD: f64 = 10.0;

/// The reason why access control cannot start.
#[derive(Debug, thiserror::Error)]
pub enum ClientsError {
    /// The API keys cannot be read.
    #[error(transparent)]
    Keys(#[from] KeysError),
    /// A setting of tokens is wrong.
    #[error(transparent)]
    Tokens(#[from] InvalidSettings),
}

/// The origin of a request, identified by connection and headers.
pub(crate) trait RequestOrigin {
    /// The address at the other end of the connection.
    fn peer(&self) -> Option<IpAddr>;

    /// The values of a header, in the order in which they were sent. `name` is in lower case.
    fn header(&self, name: &'static str) -> impl Iterator<Item = &[u8]>;

    /// The name in the certificate that the client presented, if any.
    fn certificate(&self) -> Option<Arc<str>>;
}

/// The access control of a gateway.
#[derive(Debug)]
pub(crate) struct Clients {
    keys: Option<KeyFile>,
    tokens: Option<Tokens>,
    /// Whether certificates identify clients.
    certificates: bool,
    proxies: Vec<Network>,
    default_class: Priority,
    allowance: Allowance,
    fairness: Mutex<Fairness>,
    /// Failed authentications, beyond which further ones get 429.
    failures: Mutex<Throttle>,
    /// Failed authentications, beyond which new tokens are not verified.
    floods: Mutex<Throttle>,
    throttled: LogThrottle,
    metrics: AccessMetrics,
}

/// An identified client.
#[derive(Debug)]
pub(crate) struct Client {
    id: ClientId,
    /// The highest priority class of the client's requests.
    class: Priority,
    /// The permissions of a client with an API key, a token or a certificate; `None` if the gateway
    /// requires none of these.
    grant: Option<Arc<Grant>>,
}

impl Client {
    fn granted(grant: Arc<Grant>) -> Self {
        Self { id: ClientId::Name(grant.name.clone()), class: grant.class, grant: Some(grant) }
    }

    /// The name of the client, or its address.
    pub(crate) fn label(&self) -> Arc<str> {
        match &self.id {
            ClientId::Name(name) => name.clone(),
            ClientId::Address(address) => address.to_string().into(),
            ClientId::Others => "other".into(),
        }
    }

    /// Whether the client may use this model.
    pub(crate) fn may_use(&self, model: &str) -> bool {
        let models = self.grant.as_ref().and_then(|grant| grant.models.as_ref());
        models.is_none_or(|models| models.iter().any(|name| name == model))
    }

    /// The priority class of a request: `wanted`, but not higher than the client's.
    pub(crate) fn class(&self, wanted: Priority) -> Priority {
        wanted.max(self.class)
    }
}

/// Counts one request as in flight for its client until dropped.
#[derive(Debug)]
pub(crate) struct ClientSeat {
    clients: Arc<Clients>,
    id: ClientId,
}

impl Drop for ClientSeat {
    fn drop(&mut self) {
        self.clients.fairness.lock().leave(&self.id);
    }
}

impl Clients {
    /// Reads the API keys, if the settings name a file. With `certificates`, the certificate of a
    /// connection identifies its client.
    ///
    /// # Errors
    ///
    /// [`KeysError`], or a setting of tokens is wrong.
    pub(crate) fn new(
        settings: &ClientSettings,
        certificates: bool,
        metrics: &AccessMetrics,
    ) -> Result<Arc<Self>, ClientsError> {
        let (rate, in_flight) = (settings.client_rate, settings.client_in_flight);
        Ok(Arc::new(Self {
            keys: settings.api_keys.clone().map(KeyFile::open).transpose()?,
            tokens: Tokens::new(&settings.tokens, settings.default_class)?,
            certificates,
            proxies: settings.trusted_proxies.clone(),
            default_class: settings.default_class,
            allowance: Allowance { rate, in_flight },
            fairness: Mutex::new(Fairness::new(MOST_CLIENTS, Instant::now())),
            failures: Mutex::new(Throttle::new(settings.auth_failure_rate, MOST_CLIENTS)),
            floods: Mutex::new(Throttle::new(FLOOD * settings.auth_failure_rate, MOST_CLIENTS)),
            throttled: LogThrottle::default(),
            metrics: metrics.clone(),
        }))
    }

    /// Identifies the client that sent a request: by API key, token or certificate if one of these
    /// is required, else by address.
    ///
    /// # Errors
    ///
    /// 401 `unauthorized`: the request has no valid API key, token or certificate.
    pub(crate) fn identify(&self, origin: &impl RequestOrigin) -> Result<Client, InferError> {
        self.recognize(origin).map_err(|denial| self.deny(origin, denial))
    }

    /// Whether an address belongs to a trusted proxy, which carries many clients.
    pub(crate) fn is_proxy(&self, address: IpAddr) -> bool {
        self.proxies.iter().any(|proxy| proxy.contains(address))
    }

    /// As [`identify`](Self::identify). If a token is signed with an unknown key, first waits until
    /// the keys of the issuer have been read again.
    ///
    /// # Errors
    ///
    /// As [`identify`](Self::identify).
    pub(crate) async fn identify_patiently(
        &self,
        origin: &impl RequestOrigin,
    ) -> Result<Client, InferError> {
        match (self.recognize(origin), &self.tokens) {
            (Err(Denial::UnknownSigner), Some(tokens)) => {
                tokens.look_again().await;
                self.identify(origin)
            }
            (recognized, _) => recognized.map_err(|denial| self.deny(origin, denial)),
        }
    }

    fn recognize(&self, origin: &impl RequestOrigin) -> Result<Client, Denial> {
        let (keys, tokens) = (self.keys.as_ref(), self.tokens.as_ref());
        if keys.is_none() && tokens.is_none() && !self.certificates {
            let id = ClientId::Address(self.address(origin));
            return Ok(Client { id, class: self.default_class, grant: None });
        }
        match (Credential::of(origin), keys, tokens) {
            (Some(Credential::Bearer(token)), _, Some(tokens)) if is_token(token) => {
                let only_known = self.is_flood(origin);
                tokens.verify(token, only_known).map(Client::granted)
            }
            (Some(Credential::Key(key) | Credential::Bearer(key)), Some(file), _) => {
                let keys = file.keys();
                let grant = keys.find(key).ok_or(Denial::UnknownKey)?;
                match grant.expires {
                    Some(expiry) if expiry.is_past(SystemTime::now()) => Err(Denial::ExpiredKey),
                    _ => Ok(Client::granted(grant.clone())),
                }
            }
            (Some(Credential::Bearer(_)), None, Some(_)) => Err(Denial::MalformedToken),
            _ => self.certified(origin).map(Client::granted).ok_or(Denial::Missing),
        }
    }

    /// The permissions of the client with this certificate: those in the file of keys, or else the
    /// usual ones.
    fn certified(&self, origin: &impl RequestOrigin) -> Option<Arc<Grant>> {
        let name = origin.certificate()?;
        let listed = self.keys.as_ref().and_then(|file| file.keys().certificate(&name).cloned());
        let grant = listed.unwrap_or_else(|| Grant::of(name, self.default_class).into());
        let is_past = |expiry: Expiry| expiry.is_past(SystemTime::now());
        Some(grant).filter(|grant| !grant.expires.is_some_and(is_past))
    }

    /// Counts a denied request, and returns the response to it.
    fn deny(&self, origin: &impl RequestOrigin, denial: Denial) -> InferError {
        let (address, now) = (self.address(origin), Instant::now());
        let failed = match denial {
            _ if denial.is_failure() => {
                // Refused failures count as well, because each may have cost a verification.
                self.floods.lock().fail(address, now).ok();
                self.failures.lock().fail(address, now)
            }
            Denial::Throttled => Err(self.floods.lock().wait(address, now).unwrap_or_default()),
            _ => Ok(()),
        };
        let denied = if failed.is_err() { Denial::Throttled } else { denial };
        self.metrics.denied(denied);
        debug!(%address, reason = denial.reason(), "denied a request");
        match failed {
            Err(wait) => {
                if let Some(refused) = self.throttled.count() {
                    let reason = denial.reason();
                    warn!(%address, reason, refused, "addresses fail to authenticate too often");
                }
                InferError::AuthFailures(wait)
            }
            Ok(()) => denial.problem(&self.credentials()).into(),
        }
    }

    /// Counts a request of a known client that may not do what it asks for.
    pub(crate) fn forbidden(&self) {
        self.metrics.denied(Denial::Forbidden);
    }

    /// Whether the address of the client fails so often that verifying its tokens would cost much.
    fn is_flood(&self, origin: &impl RequestOrigin) -> bool {
        self.floods.lock().wait(self.address(origin), Instant::now()).is_some()
    }

    /// The credentials that this gateway takes, in words.
    fn credentials(&self) -> String {
        let mut taken = Vec::new();
        if self.keys.is_some() {
            taken.push("a valid key as x-api-key, or as authorization: Bearer");
        }
        if self.tokens.is_some() {
            taken.push("a JSON web token as authorization: Bearer");
        }
        if self.certificates {
            taken.push("a client certificate in the TLS handshake");
        }
        taken.join("; or ")
    }

    /// The address of the client, or the network of its subscriber.
    fn address(&self, origin: &impl RequestOrigin) -> IpAddr {
        let peer = origin.peer().unwrap_or(IpAddr::from([0; 4]));
        let forwarded: Vec<_> = origin.header("x-forwarded-for").map(ascii).collect();
        address::network_of(address::behind(peer, &forwarded, &self.proxies))
    }

    /// Admits a request of `client` if it is within the client's share.
    ///
    /// # Errors
    ///
    /// [`InferError::Quota`] and [`InferError::Concurrency`].
    pub(crate) fn admit(
        self: &Arc<Self>,
        client: &Client,
        now: Instant,
    ) -> Result<Option<ClientSeat>, InferError> {
        let grant = client.grant.as_deref();
        let allowance = Allowance {
            rate: grant.and_then(|grant| grant.rate).unwrap_or(self.allowance.rate),
            in_flight: grant.and_then(|grant| grant.in_flight).unwrap_or(self.allowance.in_flight),
        };
        if allowance.is_unlimited() {
            return Ok(None);
        }
        match self.fairness.lock().admit(&client.id, allowance, now) {
            Ok(id) => Ok(Some(ClientSeat { clients: self.clone(), id })),
            Err(Excess::Rate(wait)) => Err(InferError::Quota(wait)),
            Err(Excess::InFlight) => Err(InferError::Concurrency),
        }
    }

    /// Reads the keys of the issuer of tokens, so that the first requests find them.
    pub(crate) async fn prepare(&self) {
        if let Some(tokens) = &self.tokens {
            tokens.prepare(&self.metrics).await;
        }
    }

    /// Task: applies changes to the file of API keys, and to the keys of the issuer of tokens.
    pub(crate) async fn follow(self: Arc<Self>) {
        let keys = async {
            if let Some(file) = &self.keys {
                file.follow(&self.metrics).await;
            }
        };
        let tokens = async {
            if let Some(tokens) = &self.tokens {
                tokens.follow(&self.metrics).await;
            }
        };
        tokio::join!(keys, tokens);
    }
}

/// What a request presents in its head.
enum Credential<'a> {
    /// An API key.
    Key(&'a [u8]),
    /// An API key or a token.
    Bearer(&'a [u8]),
}

impl<'a> Credential<'a> {
    fn of(origin: &'a impl RequestOrigin) -> Option<Self> {
        if let Some(key) = origin.header("x-api-key").next() {
            return Some(Self::Key(key));
        }
        let value = origin.header("authorization").next()?;
        let (scheme, key) = value.split_at_checked("Bearer ".len())?;
        scheme.eq_ignore_ascii_case(b"Bearer ").then(|| Self::Bearer(key.trim_ascii()))
    }
}

/// Whether a bearer credential has the form of a JSON web token: three parts.
fn is_token(bearer: &[u8]) -> bool {
    bearer.split(|byte| *byte == b'.').count() == 3
}

/// The text of a header value. A value that is not ASCII becomes `?`, which is not an address.
fn ascii(value: &[u8]) -> &str {
    str::from_utf8(value).ok().filter(|text| text.is_ascii()).unwrap_or("?")
}
