//! A gateway's side: jobs out, replies in.

use std::sync::Arc;

use async_trait::async_trait;
use redis::{Cmd, PushInfo, PushKind, RedisWrite, Value};
use tokio::sync::Mutex;

use super::{
    Shared,
    connect::{broker_error, entry_id, into_bytes, nonsense},
    keys,
    link::Line,
};
use crate::{BrokerError, EntryId, GatewayId, Inbound, Job, Producer, QueueName, wire};

pub(super) struct RedisProducer {
    shared: Arc<Shared>,
    channel: String,
    /// `None` between the loss of one subscription and the next.
    subscription: Mutex<Option<Line>>,
}

impl RedisProducer {
    pub(super) async fn new(shared: Arc<Shared>, gateway: GatewayId) -> Result<Self, BrokerError> {
        let channel = keys::replies(gateway);
        let line = Line::open(&shared.client, Some(&channel)).await.map_err(broker_error)?;
        Ok(Self { shared, channel, subscription: Mutex::new(Some(line)) })
    }
}

#[async_trait]
impl Producer for RedisProducer {
    async fn submit(&self, queue: &QueueName, job: &Job) -> Result<EntryId, BrokerError> {
        let size = wire::job_size_hint(job);
        let mut add = Cmd::with_capacity(5, size + 128);
        add.arg("XADD").arg(keys::queue(queue)).arg("*").arg(keys::JOB);
        // Straight into the command: the tensors are copied once.
        wire::write_job(&mut add.bufmut_for_next_arg(size), job);
        let mut connection = self.shared.link.connection().await?;
        let entry = connection.send_packed_command(&add).await.and_then(Value::extract_error);
        entry_id(&entry.map_err(broker_error)?).ok_or_else(|| nonsense("XADD"))
    }

    /// Deletes it claimed or not: whoever holds it does not look into the stream again, and
    /// settling forgives that the entry is gone.
    async fn withdraw(&self, queue: &QueueName, entry: EntryId) -> Result<(), BrokerError> {
        let mut connection = self.shared.link.connection().await?;
        redis::cmd("XDEL")
            .arg(keys::queue(queue))
            .arg(entry.to_string())
            .exec_async(&mut connection)
            .await
            .map_err(broker_error)
    }

    async fn receive(&self) -> Inbound {
        let mut subscription = self.subscription.lock().await;
        loop {
            let Some(line) = subscription.as_mut() else {
                let line = Line::reopen(&self.shared.client, Some(&self.channel)).await;
                *subscription = Some(line);
                tracing::info!("receiving replies again");
                return Inbound::Interrupted;
            };
            match line.next().await {
                Ok(push) => {
                    if let Some(inbound) = read_push(push) {
                        return inbound;
                    }
                }
                Err(why) => {
                    tracing::warn!(why, "lost the subscription to replies");
                    *subscription = None;
                }
            }
        }
    }
}

/// The replies in a message; `None` for what is no message, such as the confirmation of the
/// subscription.
fn read_push(push: PushInfo) -> Option<Inbound> {
    if push.kind != PushKind::Message {
        return None;
    }
    let payload = push.data.into_iter().nth(1).and_then(into_bytes)?;
    match wire::decode_replies(payload) {
        Ok(replies) => Some(Inbound::Replies(replies)),
        Err(error) => {
            // Answers are lost with it, as if the subscription had been broken.
            tracing::error!(%error, "dropped unreadable replies");
            Some(Inbound::Interrupted)
        }
    }
}
