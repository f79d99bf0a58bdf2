//! Connections that detect when they break.

use std::{collections::HashSet, error::Error, sync::Arc, time::Duration};

use redis::{PushInfo, PushKind, aio::MultiplexedConnection};
use tokio::{
    sync::{mpsc, watch},
    time::{Instant, sleep},
};

use super::{
    connect::connection_config, errors::broker_error, locator::Locator, routed::RoutedConnection,
};
use crate::{BrokerError, roles::Cause};

/// How long a connection may be silent before it is checked.
const QUIET: Duration = Duration::from_secs(1);

/// Timeout of the check. Answers may queue behind large batches.
const CHECK_PATIENCE: Duration = Duration::from_secs(3);

/// First and last delay between attempts to reconnect. Each delay is shortened at random, so that
/// the programs of a fleet do not all reconnect at the same time.
const FIRST_RETRY: Duration = Duration::from_millis(20);
const LAST_RETRY: Duration = Duration::from_millis(500);

/// A connection that detects when it breaks: immediately when the server closes it, and within
/// seconds when the server stops answering or is no longer the master.
pub(super) struct WatchedConnection {
    locator: Arc<Locator>,
    opened: Instant,
    connection: MultiplexedConnection,
    pushes: mpsc::UnboundedReceiver<PushInfo>,
    suspicions: watch::Receiver<()>,
}

impl WatchedConnection {
    /// Connects, and subscribes to `channel` if given, in a single attempt.
    pub(super) async fn open(
        locator: &Arc<Locator>,
        channel: Option<&str>,
    ) -> Result<Self, BrokerError> {
        let (sender, pushes) = mpsc::unbounded_channel();
        let config = connection_config().set_push_sender(sender);
        let suspicions = locator.suspicions();
        let mut connection = locator.open(&config).await?;
        let opened = Instant::now();
        if let Some(channel) = channel {
            let mut subscribe = redis::cmd(locator.channels().subscribe());
            let subscribed = subscribe.arg(channel).exec_async(&mut connection).await;
            subscribed.map_err(broker_error)?;
        }
        Ok(Self { locator: Arc::clone(locator), opened, connection, pushes, suspicions })
    }

    /// Like [`open`](Self::open), but retries until it succeeds. Calls `failed` after each failed
    /// attempt.
    pub(super) async fn reopen(
        locator: &Arc<Locator>,
        channel: Option<&str>,
        failed: impl Fn(&BrokerError),
    ) -> Self {
        let mut delay = FIRST_RETRY;
        let mut logged = HashSet::new();
        loop {
            match Self::open(locator, channel).await {
                Ok(watched) => return watched,
                Err(error) => {
                    failed(&error);
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

    /// Waits for the next push message of Redis. Returns the reason if the connection broke. Cancel
    /// safe.
    pub(super) async fn next(&mut self) -> Result<PushInfo, Cause> {
        loop {
            if self.locator.has_moved_since(self.opened) {
                return Err(cause("the master moved"));
            }
            tokio::select! {
                push = self.pushes.recv() => match push {
                    // Unasked: the node has lost the slot. redis-rs takes this push for the answer to
                    // a command, so that answers no longer belong to their commands.
                    Some(push) if push.kind == PushKind::SUnsubscribe => {
                        self.locator.suspect();
                        return Err(cause("the partition moved to another node"));
                    }
                    Some(push) if push.kind != PushKind::Disconnection => return Ok(push),
                    _ => return Err(cause("the connection was closed")),
                },
                // An error is not possible, because the locator keeps the sender.
                _ = self.suspicions.changed() => self.check(true).await?,
                () = sleep(QUIET) => self.check(false).await?,
            }
        }
    }

    /// A clone of the connection, for commands.
    pub(super) fn connection(&self) -> RoutedConnection {
        RoutedConnection::new(self.connection.clone(), Arc::clone(&self.locator))
    }

    async fn check(&self, in_doubt: bool) -> Result<(), Cause> {
        let mut connection = self.connection.clone();
        connection.set_response_timeout(CHECK_PATIENCE);
        let (checked, ()) =
            tokio::join!(self.locator.check(&mut connection), self.locator.refresh(in_doubt));
        checked.map_err(|error| Arc::new(error) as Cause)
    }
}

fn cause(text: &str) -> Cause {
    Box::<dyn Error + Send + Sync>::from(text).into()
}
