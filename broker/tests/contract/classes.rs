//! Promises about classes.

use batchfleet_broker::{Backlog, Broker, Delivery, Priority, QueueName};
use tokio::join;

use crate::{Gateway, echoes, markers, observer, queue, worker};

const MANY: u64 = 30;

/// Counts the jobs of each class.
fn classes(batch: &[Delivery]) -> [usize; 3] {
    Priority::ALL.map(|class| batch.iter().filter(|job| job.entry.priority == class).count())
}

async fn submit_to_all(gateway: &Gateway, count: u64) {
    for class in Priority::ALL {
        gateway.submit_as(class, count).await;
    }
}

pub(crate) async fn classes_share_a_claim_by_weight_highest_and_oldest_first(broker: &dyn Broker) {
    let (gateway, worker) = (Gateway::new(broker).await, worker(broker).await);
    submit_to_all(&gateway, MANY).await;
    let batch = worker.claim(13).await.unwrap();
    assert_eq!(classes(&batch), [8, 4, 1]);
    assert_eq!(markers(&batch), [0, 1, 2, 3, 4, 5, 6, 7, 0, 1, 2, 3, 0]);
    assert!(batch.iter().all(|delivery| delivery.entry.priority == delivery.job.priority));
    let next = worker.claim(26).await.unwrap();
    assert_eq!((classes(&next), markers(&next)[0]), ([16, 8, 2], 8));
}

pub(crate) async fn places_that_a_class_leaves_free_go_to_the_others(broker: &dyn Broker) {
    let (gateway, worker) = (Gateway::new(broker).await, worker(broker).await);
    gateway.submit_as(Priority::Critical, 2).await;
    gateway.submit_as(Priority::Sheddable, MANY).await;
    assert_eq!(classes(&worker.claim(10).await.unwrap()), [2, 0, 8]);
    // The critical jobs are claimed and not settled, so they no longer wait.
    assert_eq!(classes(&worker.claim(10).await.unwrap()), [0, 0, 10]);
    gateway.submit(1).await;
    assert_eq!(classes(&worker.claim(100).await.unwrap()), [0, 1, 12]);
}

pub(crate) async fn claims_of_one_job_alternate_between_classes_by_weight(broker: &dyn Broker) {
    let (gateway, worker) = (Gateway::new(broker).await, worker(broker).await);
    submit_to_all(&gateway, MANY).await;
    let mut batch = Vec::new();
    for _ in 0..13 {
        batch.extend(worker.claim(1).await.unwrap());
    }
    assert_eq!(classes(&batch), [8, 4, 1]);
}

pub(crate) async fn a_claim_never_exceeds_its_limit_however_many_classes_wake_it(
    broker: &dyn Broker,
) {
    let (gateway, worker) = (Gateway::new(broker).await, worker(broker).await);
    for limit in [1, 2, 3, 4] {
        let (first, ()) = join!(worker.claim(limit), async {
            join!(
                gateway.submit_as(Priority::Critical, 4),
                gateway.submit_as(Priority::Default, 4),
                gateway.submit_as(Priority::Sheddable, 4),
            );
        });
        let mut batch = first.unwrap();
        assert!((1..=limit).contains(&batch.len()), "{} of {limit}", batch.len());
        while batch.len() < 12 {
            let more = worker.claim(limit).await.unwrap();
            assert!((1..=limit).contains(&more.len()), "{} of {limit}", more.len());
            batch.extend(more);
        }
        assert_eq!(classes(&batch), [4; 3]);
        worker.settle(echoes(batch)).await.unwrap();
    }
}

pub(crate) async fn a_class_that_comes_into_use_is_served_within_two_full_batches(
    broker: &dyn Broker,
) {
    let (gateway, worker) = (Gateway::new(broker).await, worker(broker).await);
    gateway.submit(MANY).await;
    worker.claim(1).await.unwrap();
    for class in [Priority::Sheddable, Priority::Critical] {
        gateway.submit_as(class, 1).await;
        let mut batch = worker.claim(5).await.unwrap();
        batch.extend(worker.claim(5).await.unwrap());
        assert_eq!(classes(&batch)[class as usize], 1, "{class}");
        assert_eq!(batch.len(), 10);
    }
    // The class now counts as in use.
    gateway.submit_as(Priority::Critical, 1).await;
    assert_eq!(classes(&worker.claim(5).await.unwrap()), [1, 4, 0]);
}

pub(crate) async fn the_backlog_counts_each_class(broker: &dyn Broker) {
    let (gateway, worker) = (Gateway::new(broker).await, worker(broker).await);
    let observer = observer(broker).await;
    gateway.submit_as(Priority::Sheddable, 4).await;
    gateway.submit_as(Priority::Critical, 2).await;
    let backlog = observer.backlog(&queue()).await.unwrap();
    assert_eq!((backlog.waiting, backlog.depth(), backlog.added), ([2, 0, 4], 6, 6));
    worker.claim(3).await.unwrap();
    let backlog = observer.backlog(&queue()).await.unwrap();
    assert_eq!((backlog.waiting, backlog.in_flight, backlog.added), ([0, 0, 3], 3, 6));
}

pub(crate) async fn the_backlogs_of_several_queues_are_those_of_each(broker: &dyn Broker) {
    let (gateway, worker) = (Gateway::new(broker).await, worker(broker).await);
    let observer = observer(broker).await;
    gateway.submit_as(Priority::Critical, 4).await;
    gateway.submit_as(Priority::Default, 1).await;
    assert_eq!(worker.claim(3).await.unwrap().len(), 3);
    let unknown = QueueName::new("unknown", 1);
    let queues = [unknown.clone(), queue(), unknown];
    let backlogs = observer.backlogs(&queues).await.unwrap();
    let [own, unknown] = [backlogs[1], Backlog::default()];
    assert_eq!(backlogs, [unknown, own, unknown]);
    assert_eq!((own.depth(), own.in_flight, own.added), (2, 3, 5));
    assert!(observer.backlogs(&[]).await.unwrap().is_empty());
}
