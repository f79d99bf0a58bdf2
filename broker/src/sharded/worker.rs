//! A worker's roles over several shards: those at its home, and those at former homes until their
//! jobs are settled.

use std::{collections::BTreeSet, mem, sync::Arc};

use async_trait::async_trait;
use parking_lot::Mutex;

use super::{claims::ShardedClaims, homes::Homes, shards::Shards};
use crate::{
    Announcement, BrokerError, Consumer, Delivery, EntryId, GatewayId, Guidance, QueueName,
    Settlement, TargetSubscription, WorkerId, WorkerRoles,
};

/// Opens the roles of one worker at its home.
pub(super) async fn open(
    shards: &Arc<Shards>,
    queue: QueueName,
    worker: WorkerId,
) -> Result<WorkerRoles, BrokerError> {
    let homes = Arc::new(Homes::new(shards, queue, worker));
    homes.compare().await;
    homes.at_home().await?;
    Ok(WorkerRoles {
        claims: Box::new(ShardedClaims::new(&homes)),
        target: Box::new(ShardedTarget(Arc::clone(&homes))),
        consumer: Arc::new(ShardedConsumer { homes, announced: Mutex::default() }),
    })
}

struct ShardedTarget(Arc<Homes>);

#[async_trait]
impl TargetSubscription for ShardedTarget {
    async fn guidance(&mut self) -> Result<Guidance, BrokerError> {
        let (_, roles) = self.0.at_home().await?;
        roles.target.lock().await.guidance().await
    }
}

struct ShardedConsumer {
    homes: Arc<Homes>,
    announced: Mutex<Announced>,
}

/// Where a worker is announced.
#[derive(Clone, Default)]
struct Announced {
    home: Option<usize>,
    /// Former homes, at which it may hold jobs.
    former: BTreeSet<usize>,
}

impl Announced {
    fn move_to(&mut self, home: usize) {
        self.former.extend(self.home.replace(home));
        self.former.remove(&home);
    }
}

impl ShardedConsumer {
    /// Calls `call` with the items of each shard. The failure of a shard that is down and no longer home
    /// does not count: its jobs are sent to other shards. At a former home that fails only for a moment,
    /// nobody else takes them over while this worker lives. `ends` tells whether the worker no longer holds
    /// the jobs afterwards.
    async fn at_each<Item, Calling: Future<Output = Result<usize, BrokerError>>>(
        &self,
        items: Vec<Item>,
        ends: bool,
        entry: impl Fn(&mut Item) -> &mut EntryId,
        call: impl Fn(Arc<dyn Consumer>, Vec<Item>) -> Calling,
    ) -> Result<usize, BrokerError> {
        let mut parts: Vec<Vec<Item>> = self.homes.shards.all.iter().map(|_| Vec::new()).collect();
        for mut item in items {
            // The shard itself knows no other.
            let shard = mem::take(&mut entry(&mut item).shard);
            parts[usize::from(shard.0)].push(item);
        }
        let (mut sum, mut failure) = (0, None);
        for (shard, mut part) in parts.into_iter().enumerate().filter(|(_, part)| !part.is_empty())
        {
            let entries: Vec<EntryId> = part.iter_mut().map(|item| *entry(item)).collect();
            let roles = self.homes.at(shard).await?;
            let known = &self.homes.shards.all[shard];
            match call(Arc::clone(&roles.consumer), part).await {
                Ok(count) => sum += count,
                Err(BrokerError::Unreachable(error))
                    if shard != self.homes.current() && !known.is_up() =>
                {
                    tracing::warn!(shard = known.name, %error, "left jobs to other workers");
                    if ends {
                        roles.consumer.give_up(&entries).await;
                    }
                }
                Err(error) => {
                    failure = Some(error);
                    continue;
                }
            }
            if ends {
                roles.release(&entries);
            }
        }
        failure.map_or(Ok(sum), Err)
    }

    /// Withdraws the announcements at former homes, and retires there once all jobs are settled.
    async fn leave_former(&self) {
        let former = self.announced.lock().former.clone();
        for shard in former {
            let known = &self.homes.shards.all[shard];
            let left = match self.homes.at(shard).await {
                // The jobs of a shard that is down are sent to other shards.
                Ok(roles) if !known.is_up() || roles.is_done() => {
                    self.announced.lock().former.remove(&shard);
                    roles.consumer.retire().await
                }
                Ok(roles) => roles.consumer.leave().await,
                Err(error) => Err(error),
            };
            if let Err(error) = left {
                tracing::debug!(shard = known.name, %error, "failed to withdraw announcement");
            }
        }
    }
}

#[async_trait]
impl Consumer for ShardedConsumer {
    async fn reclaim(&self, limit: usize) -> Result<Vec<Delivery>, BrokerError> {
        let (shard, roles) = self.homes.at_home().await?;
        Ok(roles.hold(roles.consumer.reclaim(limit).await?, shard))
    }

    async fn can_reclaim(&self) -> Result<bool, BrokerError> {
        self.homes.at_home().await?.1.consumer.can_reclaim().await
    }

    async fn gateways_alive(&self, gateways: &[GatewayId]) -> Result<Vec<bool>, BrokerError> {
        self.homes.at_home().await?.1.consumer.gateways_alive(gateways).await
    }

    async fn settle(&self, settlements: Vec<Settlement>) -> Result<usize, BrokerError> {
        let settle = |consumer: Arc<dyn Consumer>, part| async move { consumer.settle(part).await };
        self.at_each(settlements, true, |settlement| &mut settlement.entry, settle).await
    }

    async fn renew_leases(&self, entries: &[EntryId]) -> Result<(), BrokerError> {
        let renew = |consumer: Arc<dyn Consumer>, part: Vec<EntryId>| async move {
            consumer.renew_leases(&part).await.map(|()| 0)
        };
        self.at_each(entries.to_vec(), false, |entry| entry, renew).await.map(drop)
    }

    async fn hand_back(&self, deliveries: Vec<Delivery>) -> Result<(), BrokerError> {
        let hand_back = |consumer: Arc<dyn Consumer>, part| async move {
            consumer.hand_back(part).await.map(|()| 0)
        };
        self.at_each(deliveries, true, |delivery| &mut delivery.entry, hand_back).await.map(drop)
    }

    async fn renew(&self, announcement: &Announcement) -> Result<(), BrokerError> {
        let home = self.homes.compare().await;
        self.homes.at(home).await?.consumer.renew(announcement).await?;
        self.announced.lock().move_to(home);
        self.leave_former().await;
        Ok(())
    }

    async fn leave(&self) -> Result<(), BrokerError> {
        let home = self.announced.lock().home.take();
        self.announced.lock().former.extend(home);
        self.leave_former().await;
        Ok(())
    }

    async fn retire(&self) -> Result<(), BrokerError> {
        let Announced { home, former } = mem::take(&mut *self.announced.lock());
        let mut retired = Ok(());
        for shard in former.into_iter().chain(home) {
            retired = self.homes.at(shard).await?.consumer.retire().await;
        }
        retired
    }
}
