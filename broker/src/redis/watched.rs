//! Connections that notice when they break.

use std::{collections::HashSet, error::Error, sync::Arc, time::Duration};

use redis::{PushInfo, PushKind, RedisResult, aio::MultiplexedConnection};
use tokio::{
    sync::mpsc,
    time::{Instant, sleep, timeout},
};

use super::{connect::connection_config, locator::Locator};
use crate::roles::Cause;

/// Silence after which a connection is checked.
const QUIET: Duration = Duration::from_secs(1);

/// How long that check may take: answers queue behind large batches.
const CHECK_PATIENCE: Duration = Duration::from_secs(3);

/// Delays between attempts to connect again; each is shortened at random, so that the programs of a
/// fleet do not all connect at once.
const FIRST_RETRY: Duration = Duration::from_millis(20);
const LAST_RETRY: Duration = Duration::from_millis(500);

/// A connection that notices when it breaks: at once when the server closes it, after a few seconds
/// when the server is gone, or is no longer the master.
pub(super) struct WatchedConnection {
    locator: Arc<Locator>,
    opened: Instant,
    connection: MultiplexedConnection,
    pushes: mpsc::UnboundedReceiver<PushInfo>,
}

impl WatchedConnection {
    /// Connects, and subscribes to `channel` if there is one; tries once.
    pub(super) async fn open(locator: &Arc<Locator>, channel: Option<&str>) -> RedisResult<Self> {
        let (sender, pushes) = mpsc::unbounded_channel();
        let config = connection_config().set_push_sender(sender);
        let mut connection = locator.open(&config).await?;
        let opened = Instant::now();
        if let Some(channel) = channel {
            connection.subscribe(channel).await?;
        }
        Ok(Self { locator: Arc::clone(locator), opened, connection, pushes })
    }

    /// The same, but tries until it succeeds.
    pub(super) async fn reopen(locator: &Arc<Locator>, channel: Option<&str>) -> Self {
        let mut delay = FIRST_RETRY;
        let mut logged = HashSet::new();
        loop {
            match Self::open(locator, channel).await {
                Ok(watched) => return watched,
                Err(error) => {
                    let why = error.to_string();
                    if logged.insert(why.clone()) {
                        tracing::warn!(why, "failed to connect to Redis");
                    }
                }
            }
            sleep(delay.mul_f32(rand::random_range(0.5..1.0))).await;
            delay = LAST_RETRY.min(delay * 2);
        }
    }

    /// The next push message of Redis; `Err` is why the connection broke. Cancel safe.
    pub(super) async fn next(&mut self) -> Result<PushInfo, Cause> {
        loop {
            if self.locator.has_moved_since(self.opened) {
                return Err(cause("the master moved"));
            }
            match timeout(QUIET, self.pushes.recv()).await {
                Ok(Some(push)) if push.kind != PushKind::Disconnection => return Ok(push),
                Ok(_) => return Err(cause("the connection was closed")),
                Err(_quiet) => self.check().await?,
            }
        }
    }

    /// A clone of the connection, for commands.
    pub(super) fn connection(&self) -> MultiplexedConnection {
        self.connection.clone()
    }

    async fn check(&self) -> Result<(), Cause> {
        let mut connection = self.connection.clone();
        connection.set_response_timeout(CHECK_PATIENCE);
        let (checked, ()) =
            tokio::join!(self.locator.check(&mut connection), self.locator.refresh());
        checked.map_err(|error| Arc::new(error) as Cause)
    }
}

fn cause(text: &str) -> Cause {
    Box::<dyn Error + Send + Sync>::from(text).into()
}
