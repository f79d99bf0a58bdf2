//! What workers are told, and how soon.

use std::time::Duration;

use batchfleet_broker::{
    Announcement, BatchWish, Broker, Guidance, Target, Wish, WorkerId,
};
use tokio::time::{Instant, timeout};

use crate::{Worker, queue, spec, worker};

/// Longer than it takes until a worker looks again unasked.
const SOON: Duration = Duration::from_secs(5);

fn rows(rows: u32) -> Wish {
    Wish { batch: BatchWish::Rows(rows), slo_ms: None }
}

pub(crate) async fn a_worker_that_nothing_was_published_for_is_told_so_at_once(
    broker: &dyn Broker,
) {
    let worker = worker(broker).await;
    let asked = Instant::now();
    assert_eq!(worker.guidance().await.unwrap().target, None);
    assert!(asked.elapsed() < Duration::from_millis(900), "{:?}", asked.elapsed());
}

pub(crate) async fn what_is_published_is_heard_at_once_and_found_by_those_who_come_later(
    broker: &dyn Broker,
) {
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

pub(crate) async fn the_last_word_holds_and_its_epoch_is_higher(broker: &dyn Broker) {
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

pub(crate) async fn a_worker_knows_how_many_serve_its_queue(broker: &dyn Broker) {
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
