//! Promises about targets, and how soon workers read them.

use std::time::Duration;

use batchfleet_broker::{Announcement, BatchWish, Broker, Guidance, Target, Wish, WorkerId};
use tokio::time::{Instant, timeout};

use crate::{Worker, queue, spec, worker};

/// Longer than the time between two reads of the target.
const SOON: Duration = Duration::from_secs(5);

fn rows(rows: u32) -> Wish {
    Wish { batch: BatchWish::Rows(rows), slo_ms: None }
}

pub(crate) async fn the_first_guidance_comes_at_once_also_without_a_target(broker: &dyn Broker) {
    let worker = worker(broker).await;
    let asked = Instant::now();
    assert_eq!(worker.guidance().await.unwrap().target, None);
    assert!(asked.elapsed() < Duration::from_millis(900), "{:?}", asked.elapsed());
}

pub(crate) async fn a_target_reaches_workers_at_once_and_later_workers_too(broker: &dyn Broker) {
    let (early, controller) = (worker(broker).await, broker.controller().await.unwrap());
    early.guidance().await.unwrap();
    let heard = tokio::spawn(async move {
        let begun = Instant::now();
        loop {
            if let Guidance { target: Some(target), .. } = early.guidance().await.unwrap() {
                return (target, begun.elapsed());
            }
        }
    });
    let epoch = controller.publish(&queue(), rows(32)).await.unwrap();
    let (target, _) = timeout(SOON, heard).await.unwrap().unwrap();
    assert_eq!(target, Target { epoch, wish: rows(32) });

    let late = worker(broker).await;
    assert_eq!(late.guidance().await.unwrap().target, Some(target));
}

pub(crate) async fn the_last_target_holds_and_its_epoch_is_higher(broker: &dyn Broker) {
    let (worker, controller) = (worker(broker).await, broker.controller().await.unwrap());
    let slo = Wish { batch: BatchWish::Auto, slo_ms: Some(12.5) };
    let mut before = 0;
    for wish in [rows(7), Wish::default(), slo] {
        let epoch = controller.publish(&queue(), wish).await.unwrap();
        assert!(epoch > before, "{epoch} after {before}");
        before = epoch;
    }
    let target = worker.guidance().await.unwrap().target.unwrap();
    assert_eq!(target, Target { epoch: before, wish: slo });
    assert_eq!(target.wish.slo(), Some(Duration::from_micros(12_500)));
}

pub(crate) async fn guidance_counts_the_living_workers_of_the_queue(broker: &dyn Broker) {
    let mut workers = Vec::new();
    for _ in 0..3 {
        let id = WorkerId::random();
        workers.push((id, Worker::new(broker, id).await));
    }
    for living in [3, 2] {
        let known = async {
            loop {
                for (id, worker) in &workers[..living] {
                    worker.renew(&Announcement::new(*id, spec())).await.unwrap();
                }
                if workers[0].1.guidance().await.unwrap().workers == Some(living) {
                    break;
                }
            }
        };
        timeout(2 * SOON, known).await.unwrap();
        workers[2].1.retire().await.unwrap();
    }
}
