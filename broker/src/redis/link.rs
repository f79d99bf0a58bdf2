//! Connections that notice when they break, and the one that everybody shares.

use std::{collections::HashSet, error::Error, sync::Arc, time::Duration};

use redis::{PushInfo, PushKind, RedisResult, aio::MultiplexedConnection};
use tokio::{
    sync::{mpsc, watch},
    task::JoinHandle,
    time::{Instant, sleep, timeout, timeout_at},
};

use super::{
    connect::{PATIENCE, connection_config},
    place::Place,
};
use crate::{BrokerError, roles::Cause};

/// Silence after which a connection is asked whether it lives.
const QUIET: Duration = Duration::from_secs(1);

/// How long that question may stay unanswered: answers queue behind large batches.
const DEAF: Duration = Duration::from_secs(3);

/// Delays between attempts to connect again; each is shortened at random, so that a fleet does not
/// come back in step.
const FIRST_RETRY: Duration = Duration::from_millis(20);
const LAST_RETRY: Duration = Duration::from_millis(500);

/// A connection that says when it broke: at once when the peer closes it, after a few seconds when
/// the peer is gone without a word, or is not where Redis is any more.
pub(super) struct Line {
    place: Arc<Place>,
    opened: Instant,
    pub(super) connection: MultiplexedConnection,
    pushes: mpsc::UnboundedReceiver<PushInfo>,
}

impl Line {
    /// Tries once to connect, and to subscribe to `channel`, which is being received then.
    pub(super) async fn open(place: &Arc<Place>, channel: Option<&str>) -> RedisResult<Self> {
        let (sender, pushes) = mpsc::unbounded_channel();
        let config = connection_config().set_push_sender(sender);
        let mut connection = place.open(&config).await?;
        let opened = Instant::now();
        if let Some(channel) = channel {
            connection.subscribe(channel).await?;
        }
        Ok(Self { place: Arc::clone(place), opened, connection, pushes })
    }

    /// The same, trying for ever.
    pub(super) async fn reopen(place: &Arc<Place>, channel: Option<&str>) -> Self {
        let mut delay = FIRST_RETRY;
        let mut told = HashSet::new();
        loop {
            match Self::open(place, channel).await {
                Ok(line) => return line,
                Err(error) => {
                    let why = error.to_string();
                    if told.insert(why.clone()) {
                        tracing::warn!(why, "Redis is still out of reach");
                    }
                }
            }
            sleep(delay.mul_f32(rand::random_range(0.5..1.0))).await;
            delay = LAST_RETRY.min(delay * 2);
        }
    }

    /// What Redis sends next of its own accord; `Err` tells how the connection broke. May be
    /// cancelled.
    pub(super) async fn next(&mut self) -> Result<PushInfo, Cause> {
        loop {
            if self.place.is_elsewhere_since(self.opened) {
                return Err(cause("Redis went elsewhere"));
            }
            match timeout(QUIET, self.pushes.recv()).await {
                Ok(Some(push)) if push.kind != PushKind::Disconnection => return Ok(push),
                Ok(_) => return Err(cause("the connection was closed")),
                Err(_quiet) => self.ping().await?,
            }
        }
    }

    fn up(&self) -> State {
        State::Up { since: Instant::now(), connection: self.connection.clone() }
    }

    async fn ping(&self) -> Result<(), Cause> {
        let mut connection = self.connection.clone();
        connection.set_response_timeout(DEAF);
        let (lives, ()) = tokio::join!(self.place.check(&mut connection), self.place.look());
        lives.map_err(|error| Arc::new(error) as Cause)
    }
}

fn cause(text: &str) -> Cause {
    Box::<dyn Error + Send + Sync>::from(text).into()
}

/// One connection for everybody, replaced when it breaks. A task on the runtime that opened it
/// looks after it, so it does not matter on which runtime a caller lives.
pub(super) struct Link {
    state: watch::Receiver<State>,
    keeper: JoinHandle<()>,
}

enum State {
    Up { since: Instant, connection: MultiplexedConnection },
    Down { since: Instant, why: Cause },
}

impl Link {
    /// Connects; tries once.
    pub(super) async fn open(place: Arc<Place>) -> RedisResult<Self> {
        let line = Line::open(&place, None).await?;
        let (sender, state) = watch::channel(line.up());
        Ok(Self { state, keeper: tokio::spawn(keep(place, line, sender)) })
    }

    /// The connection. While it is down callers wait for it until it has been down for
    /// [`PATIENCE`]: a short break goes unnoticed, in a long one everybody hears of it at once.
    pub(super) async fn connection(&self) -> Result<MultiplexedConnection, BrokerError> {
        let mut state = self.state.clone();
        let give_up = match &*self.state.borrow() {
            State::Up { connection, .. } => return Ok(connection.clone()),
            State::Down { since, .. } => *since + PATIENCE,
        };
        // Its own failures (too late, keeper gone) show in the state just as well.
        drop(timeout_at(give_up, state.wait_for(|state| matches!(state, State::Up { .. }))).await);
        match &*self.state.borrow() {
            State::Up { connection, .. } => Ok(connection.clone()),
            State::Down { why, .. } => Err(BrokerError::Unreachable(Arc::clone(why))),
        }
    }

    /// Whether callers get a connection, now or after a short wait.
    pub(super) fn is_hopeful(&self) -> bool {
        match &*self.state.borrow() {
            State::Up { .. } => true,
            State::Down { since, .. } => since.elapsed() < PATIENCE,
        }
    }

    /// How long the connection has been up without a break; zero while it is down.
    pub(super) fn up_for(&self) -> Duration {
        match &*self.state.borrow() {
            State::Up { since, .. } => since.elapsed(),
            State::Down { .. } => Duration::ZERO,
        }
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.keeper.abort();
    }
}

/// Replaces the connection whenever it breaks, until it is aborted.
async fn keep(place: Arc<Place>, mut line: Line, state: watch::Sender<State>) {
    loop {
        let why = loop {
            if let Err(why) = line.next().await {
                break why;
            }
        };
        tracing::warn!(%why, "lost Redis");
        let since = Instant::now();
        state.send_replace(State::Down { since, why });
        // It may still be open.
        drop(line);
        line = Line::reopen(&place, None).await;
        tracing::info!(seconds = since.elapsed().as_secs_f64(), "found Redis again");
        state.send_replace(line.up());
    }
}
