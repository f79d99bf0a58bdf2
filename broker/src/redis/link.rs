//! The link: the connection that all roles of a process share.

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::watch,
    task::JoinHandle,
    time::{Instant, sleep, timeout_at},
};

use super::{
    connect::PATIENCE, locator::Locator, routed::RoutedConnection, tasks::Tasks,
    unfit::refuse_unfit, watched::WatchedConnection,
};
use crate::BrokerError;

/// How often a Redis that cannot be used as it is set up is tried again.
const UNFIT_RETRY: Duration = Duration::from_secs(5);

/// One connection. A task on the runtime that opened the connection replaces it when it breaks.
/// Callers may be on any runtime.
pub(super) struct Link {
    state: watch::Receiver<LinkState>,
    keeper: JoinHandle<()>,
}

enum LinkState {
    Up { since: Instant, connection: RoutedConnection },
    Down { since: Instant, why: BrokerError },
}

impl Link {
    /// Connects, in a single attempt.
    pub(super) async fn open(locator: Arc<Locator>, tasks: &Tasks) -> Result<Self, BrokerError> {
        let watched = WatchedConnection::open(&locator, None).await?;
        let (sender, state) = watch::channel(up(&watched));
        let keeper = tasks.spawn("connection to Redis", keep(locator, watched, sender));
        Ok(Self { state, keeper })
    }

    /// A link that is down since `since`, until Redis answers.
    pub(super) fn open_later(locator: Arc<Locator>, tasks: &Tasks, since: Instant) -> Self {
        let why = BrokerError::unreachable("Redis has not answered yet");
        let (sender, state) = watch::channel(LinkState::Down { since, why });
        let connecting = async move {
            let watched = reconnect_to_fit(&locator, since, &sender).await;
            keep(locator, watched, sender).await;
        };
        Self { state, keeper: tasks.spawn("connection to Redis", connecting) }
    }

    /// Returns the connection. While the connection is down, callers wait until the outage has
    /// lasted [`PATIENCE`]: short outages cause no errors, and calls in long outages fail
    /// immediately.
    pub(super) async fn connection(&self) -> Result<RoutedConnection, BrokerError> {
        let mut state = self.state.clone();
        let give_up = match &*self.state.borrow() {
            LinkState::Up { connection, .. } => return Ok(connection.clone()),
            LinkState::Down { since, .. } => *since + PATIENCE,
        };
        // If the wait failed (timeout, or the task has ended), the state shows the failure.
        drop(
            timeout_at(give_up, state.wait_for(|state| matches!(state, LinkState::Up { .. })))
                .await,
        );
        match &*self.state.borrow() {
            LinkState::Up { connection, .. } => Ok(connection.clone()),
            LinkState::Down { why: why @ BrokerError::Unreachable(_), .. } => Err(why.clone()),
            // Whatever prevents the connection, requests can wait for its end.
            LinkState::Down { why, .. } => Err(BrokerError::unreachable(why.clone())),
        }
    }

    /// Whether the connection is up, or has been down for less than [`PATIENCE`].
    pub(super) fn is_usable(&self) -> bool {
        match &*self.state.borrow() {
            LinkState::Up { .. } => true,
            LinkState::Down { since, .. } => since.elapsed() < PATIENCE,
        }
    }

    /// Waits until the connection is down.
    pub(super) async fn lost(&self) {
        let mut state = self.state.clone();
        // An error means that the task has ended, and with it the connection.
        drop(state.wait_for(|state| matches!(state, LinkState::Down { .. })).await);
    }

    /// After `pause`, waits until the connection is down.
    pub(super) async fn lost_after(&self, pause: Duration) {
        sleep(pause).await;
        self.lost().await;
    }

    /// Since when the connection is down, and the reason.
    pub(super) fn failure(&self) -> Option<(Instant, BrokerError)> {
        match &*self.state.borrow() {
            LinkState::Up { .. } => None,
            LinkState::Down { since, why } => Some((*since, why.clone())),
        }
    }

    /// Time since the connection came up; zero while it is down.
    pub(super) fn up_for(&self) -> Duration {
        match &*self.state.borrow() {
            LinkState::Up { since, .. } => since.elapsed(),
            LinkState::Down { .. } => Duration::ZERO,
        }
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.keeper.abort();
    }
}

/// Replaces the connection whenever it breaks, until the task is aborted.
async fn keep(
    locator: Arc<Locator>,
    mut watched: WatchedConnection,
    state: watch::Sender<LinkState>,
) {
    loop {
        let why = loop {
            if let Err(why) = watched.next().await {
                break why;
            }
        };
        tracing::warn!(%why, "connection to Redis lost");
        let since = Instant::now();
        state.send_replace(LinkState::Down { since, why: BrokerError::Unreachable(why) });
        // Closes the old connection, which may still be open.
        drop(watched);
        watched = reconnect(&locator, since, &state).await;
        tracing::info!(seconds = since.elapsed().as_secs_f64(), "connected to Redis again");
        state.send_replace(up(&watched));
    }
}

async fn reconnect(
    locator: &Arc<Locator>,
    since: Instant,
    state: &watch::Sender<LinkState>,
) -> WatchedConnection {
    WatchedConnection::reopen(locator, None, |why| {
        state.send_replace(LinkState::Down { since, why: why.clone() });
    })
    .await
}

/// Connects for the first time, to a Redis that did not answer when the program started. While Redis
/// is set up in a way that would lose jobs, the link stays down.
async fn reconnect_to_fit(
    locator: &Arc<Locator>,
    since: Instant,
    state: &watch::Sender<LinkState>,
) -> WatchedConnection {
    loop {
        let watched = reconnect(locator, since, state).await;
        let address = locator.name();
        match refuse_unfit(&mut watched.connection(), locator).await {
            Ok(()) => {
                let seconds = since.elapsed().as_secs_f64();
                tracing::info!(address, seconds, "connected to Redis");
                state.send_replace(up(&watched));
                return watched;
            }
            Err(why) => {
                tracing::warn!(address, %why, "Redis cannot be used");
                state.send_replace(LinkState::Down { since, why });
                sleep(UNFIT_RETRY).await;
            }
        }
    }
}

fn up(watched: &WatchedConnection) -> LinkState {
    LinkState::Up { since: Instant::now(), connection: watched.connection() }
}
