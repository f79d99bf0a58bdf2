//! Access control: identifies the client of a request, and enforces its permissions and its share.

mod address;
mod fairness;
mod grant;
mod key_file;
mod key_lines;
mod key_toml;
mod keys;
mod settings;

use std::{net::IpAddr, sync::Arc};

use batchfleet_broker::Priority;
use batchfleet_oip::Problem;
use parking_lot::Mutex;
use tokio::time::Instant;
use tracing::info;

use self::{
    address::Network,
    fairness::{Allowance, ClientId, Excess, Fairness},
    grant::Grant,
    key_file::KeyFile,
};
pub(crate) use self::{address::network_of, grant::class};
pub use self::{key_file::KeysError, settings::ClientSettings};
use crate::error::InferError;

/// Maximum number of clients with a share of their own; all other clients have one share together.
const MOST_CLIENTS: usize = 100_000;

/// The origin of a request, identified by connection and headers.
pub(crate) trait RequestOrigin {
    /// The address at the other end of the connection.
    fn peer(&self) -> Option<IpAddr>;

    /// The values of a header, in the order in which they were sent. `name` is in lower case.
    fn header(&self, name: &'static str) -> impl Iterator<Item = &[u8]>;
}

/// The access control of a gateway.
#[derive(Debug)]
pub(crate) struct Clients {
    keys: Option<KeyFile>,
    proxies: Vec<Network>,
    allowance: Allowance,
    fairness: Mutex<Fairness>,
}

/// An identified client.
#[derive(Debug)]
pub(crate) struct Client {
    id: ClientId,
    /// The permissions of the API key; `None` if the gateway requires no keys and allows
    /// everything.
    grant: Option<Arc<Grant>>,
}

impl Client {
    /// Whether the client may use this model.
    pub(crate) fn may_use(&self, model: &str) -> bool {
        let models = self.grant.as_ref().and_then(|grant| grant.models.as_ref());
        models.is_none_or(|models| models.iter().any(|name| name == model))
    }

    /// The priority class of a request: `wanted`, but not higher than the API key allows.
    pub(crate) fn class(&self, wanted: Priority) -> Priority {
        self.grant.as_ref().map_or(wanted, |grant| wanted.max(grant.class))
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
    /// Reads the API keys, if the settings name a file.
    ///
    /// # Errors
    ///
    /// [`KeysError`]
    pub(crate) fn new(settings: &ClientSettings) -> Result<Arc<Self>, KeysError> {
        let keys = settings.api_keys.clone().map(KeyFile::open).transpose()?;
        if keys.is_none() {
            info!("requests need no API key: --api-keys is not set");
        }
        let (rate, in_flight) = (settings.client_rate, settings.client_in_flight);
        Ok(Arc::new(Self {
            keys,
            proxies: settings.trusted_proxies.clone(),
            allowance: Allowance { rate, in_flight },
            fairness: Mutex::new(Fairness::new(MOST_CLIENTS, Instant::now())),
        }))
    }

    /// Identifies the client that sent a request: by API key if keys are required, else by address.
    ///
    /// # Errors
    ///
    /// 401 `unauthorized`: the request has no API key, or an unknown one.
    pub(crate) fn identify(&self, origin: &impl RequestOrigin) -> Result<Client, InferError> {
        let Some(file) = &self.keys else {
            return Ok(Client { id: self.address(origin), grant: None });
        };
        let grant = presented(origin).and_then(|key| file.find(key)).ok_or_else(|| Problem {
            status: 401,
            code: "unauthorized",
            message: "send a valid key as x-api-key, or as authorization: Bearer".to_owned(),
        })?;
        Ok(Client { id: ClientId::Key(grant.name.clone()), grant: Some(grant) })
    }

    /// Whether an address belongs to a trusted proxy, which carries many clients.
    pub(crate) fn is_proxy(&self, address: IpAddr) -> bool {
        self.proxies.iter().any(|proxy| proxy.contains(address))
    }

    fn address(&self, origin: &impl RequestOrigin) -> ClientId {
        let peer = origin.peer().unwrap_or(IpAddr::from([0; 4]));
        let forwarded: Vec<_> = origin.header("x-forwarded-for").map(ascii).collect();
        ClientId::Address(address::network_of(address::behind(peer, &forwarded, &self.proxies)))
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

    /// Task: applies changes to the file of API keys.
    pub(crate) async fn follow(self: Arc<Self>) {
        if let Some(file) = &self.keys {
            file.follow().await;
        }
    }
}

/// The API key that a request presents.
fn presented(origin: &impl RequestOrigin) -> Option<&[u8]> {
    if let Some(key) = origin.header("x-api-key").next() {
        return Some(key);
    }
    let value = origin.header("authorization").next()?;
    let (scheme, key) = value.split_at_checked("Bearer ".len())?;
    scheme.eq_ignore_ascii_case(b"Bearer ").then(|| key.trim_ascii())
}

/// The text of a header value. A value that is not ASCII becomes `?`, which is not an address.
fn ascii(value: &[u8]) -> &str {
    str::from_utf8(value).ok().filter(|text| text.is_ascii()).unwrap_or("?")
}
