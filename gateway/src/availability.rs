//! Decides whether this gateway should get requests, for /readyz and `/v2/health/ready`.
//!
//! A gateway that is cut off from Redis, or lacks rights there, refuses every request, so load
//! balancers should pass it over. If Redis is away for all gateways, this would leave none, and clients would get errors of
//! the load balancer instead of a 503 with a code and `Retry-After`. A gateway therefore gives up
//! its readiness only while another gateway reaches Redis. While Redis answers, it notes the
//! addresses of the others; while Redis does not, it asks them.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use batchfleet_broker::{BrokerError, Observer, Producer};
use batchfleet_service::Readiness;
use tokio::time::{Instant, MissedTickBehavior, interval};
use tracing::debug;

use crate::{ask::Core, peers};

/// Interval between decisions.
const LOOK: Duration = Duration::from_millis(250);
/// Interval between reads of the other gateways' addresses, and between questions to them.
const PEERS: Duration = Duration::from_secs(2);

const NO_MODEL: &str = "no worker serves any model";

/// The conditions under which a gateway is ready.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ReadyWhen {
    /// How long Redis may be out of reach.
    pub(crate) unready_after: Duration,
    /// Whether a request for at least one model must have a chance of an answer.
    pub(crate) needs_model: bool,
}

/// Why a gateway cannot use Redis.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Trouble {
    /// It does not answer.
    Away,
    /// It denies commands.
    Denied,
}

impl Trouble {
    /// Why a gateway that has this trouble alone should get no requests.
    fn alone(self) -> &'static str {
        match self {
            Self::Away => "Redis is out of reach of this gateway, but not of others",
            Self::Denied => "Redis denies commands to this gateway, but not to others",
        }
    }

    /// What is wrong if no gateway is better off.
    fn of_all(self) -> &'static str {
        match self {
            Self::Away => "Redis is out of reach of every known gateway",
            Self::Denied => "Redis denies commands to this gateway, and no other can use Redis",
        }
    }
}

/// What a gateway knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Facts {
    /// What has kept this gateway from using Redis for too long.
    trouble: Option<Trouble>,
    /// Another gateway can use Redis.
    peer_reaches: bool,
    /// Requests for at least one model have a chance of an answer.
    has_model: bool,
}

/// Why the gateway should get no requests, and what does not work although it should.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Verdict {
    obstacle: Option<&'static str>,
    warning: Option<&'static str>,
}

fn judge(facts: Facts, needs_model: bool) -> Verdict {
    let warning = facts.trouble.map(Trouble::of_all);
    let obstacle = match facts.trouble {
        Some(trouble) if facts.peer_reaches => Some(trouble.alone()),
        _ => (needs_model && !facts.has_model).then_some(NO_MODEL),
    };
    Verdict { obstacle, warning }
}

/// The gateways that were there when Redis was last read.
#[derive(Debug, Default)]
struct Peers {
    own: Option<SocketAddr>,
    others: Vec<SocketAddr>,
    looked: Option<Instant>,
    /// The last answer of the others.
    reaches: bool,
}

impl Peers {
    /// Publishes this gateway's address, and reads those of the others.
    async fn read(
        &mut self,
        producer: &dyn Producer,
        observer: &dyn Observer,
        admin: SocketAddr,
    ) -> Result<(), BrokerError> {
        if self.own.is_none() {
            self.own = producer.introduce(admin).await?;
        }
        let mut gateways = observer.gateways().await?;
        gateways.retain(|gateway| Some(*gateway) != self.own);
        self.others = gateways;
        Ok(())
    }

    fn is_due(&mut self) -> bool {
        let is_due = self.looked.is_none_or(|looked| looked.elapsed() >= PEERS);
        if is_due {
            self.looked = Some(Instant::now());
        }
        is_due
    }
}

/// The roles through which a gateway looks at Redis, and the address that it publishes.
pub(crate) struct Outlook {
    pub(crate) producer: Arc<dyn Producer>,
    pub(crate) observer: Arc<dyn Observer>,
    /// The address of the admin port; `None` without one.
    pub(crate) admin: Option<SocketAddr>,
}

/// Task: keeps `readiness` up to date. Returns when a task that the broker needs has panicked.
pub(crate) async fn follow(
    outlook: Outlook,
    core: Arc<Core>,
    readiness: Readiness,
    when: ReadyWhen,
) {
    let Outlook { producer, observer, admin } = outlook;
    let (mut peers, mut away_since) = (Peers::default(), None::<Instant>);
    let mut looks = interval(LOOK);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        looks.tick().await;
        let health = observer.health();
        if health.panicked.is_some() {
            return;
        }
        let is_away = health.outage.is_some() || !core.dispatcher.is_reachable();
        away_since = if is_away { away_since.or_else(|| Some(Instant::now())) } else { None };
        let is_long = |lasts: Duration| lasts >= when.unready_after;
        let trouble = if health.denied.is_some_and(is_long) {
            Some(Trouble::Denied)
        } else {
            away_since.is_some_and(|since| is_long(since.elapsed())).then_some(Trouble::Away)
        };
        if trouble.is_none() {
            peers.reaches = false;
        }
        if peers.is_due() {
            let answers = !is_away || health.denied.is_some();
            if let (true, Some(admin)) = (answers, admin)
                && let Err(error) = peers.read(&*producer, &*observer, admin).await
            {
                debug!(%error, "failed to read the addresses of gateways");
            }
            // An admin port that only this machine reaches says nothing of other ports.
            if let (Some(own), Some(admin)) = (peers.own, admin)
                && (admin.ip().is_unspecified() || !own.ip().is_loopback())
            {
                core.dispatcher.reached_at(own.ip());
            }
            if trouble.is_some() {
                peers.reaches = peers::any_reaches_redis(&peers.others).await;
            }
        }
        let has_model = core.catalog.all().iter().any(|model| model.is_available());
        let facts = Facts { trouble, peer_reaches: peers.reaches, has_model };
        let Verdict { obstacle, warning } = judge(facts, when.needs_model);
        readiness.set_warning(warning);
        readiness.set_obstacle(obstacle);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_gateway_that_is_worse_off_than_another_gives_up_its_readiness() {
        let well = Facts { trouble: None, peer_reaches: true, has_model: true };
        assert_eq!(judge(well, true), Verdict::default());
        for trouble in [Trouble::Away, Trouble::Denied] {
            let alone = Facts { trouble: Some(trouble), ..well };
            let all = Facts { peer_reaches: false, ..alone };
            assert_eq!(judge(alone, false).obstacle, Some(trouble.alone()));
            let expected = Verdict { obstacle: None, warning: Some(trouble.of_all()) };
            assert_eq!(judge(all, false), expected);
        }
    }

    #[test]
    fn models_count_only_where_the_setting_wants_them() {
        let facts = Facts { trouble: None, peer_reaches: false, has_model: false };
        assert_eq!(judge(facts, false), Verdict::default());
        assert_eq!(judge(facts, true).obstacle, Some(NO_MODEL));
    }
}
