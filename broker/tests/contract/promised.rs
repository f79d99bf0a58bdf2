//! Promises about the controller: what it promises, reads and forgets.

use std::time::Duration;

use batchfleet_broker::{Announcement, Broker, FleetSnapshot, ObservedWorker, Promise, WorkerId};

use crate::{Gateway, Worker, observer, queue, spec, worker};

pub(crate) async fn a_promise_is_read_apart_from_announcements(broker: &dyn Broker) {
    let (controller, observer) = (broker.controller().await.unwrap(), observer(broker).await);
    let expected = Announcement { capacity: 400.0, ..Announcement::new(WorkerId(1), spec()) };
    controller.promise(&expected).await.unwrap();
    let promises = vec![Promise { expected, holds: true, retracted: false }];
    let snapshot = observer.fleet().await.unwrap();
    assert_eq!(snapshot, FleetSnapshot { workers: Vec::new(), promises: promises.clone() });

    let host = "pod-1".to_owned();
    let living = Announcement { host, ..Announcement::new(WorkerId(2), spec()) };
    Worker::new(broker, WorkerId(2)).await.renew(&living).await.unwrap();
    let workers = vec![ObservedWorker { announcement: living, live: true }];
    assert_eq!(observer.fleet().await.unwrap(), FleetSnapshot { workers, promises });
}

pub(crate) async fn a_retraction_replaces_a_promise_and_a_promise_a_retraction(
    broker: &dyn Broker,
) {
    let (controller, observer) = (broker.controller().await.unwrap(), observer(broker).await);
    let last = Announcement::new(WorkerId(1), spec());
    for retracted in [true, false, true] {
        if retracted {
            controller.retract(&last).await.unwrap();
        } else {
            controller.promise(&last).await.unwrap();
        }
        let promises = observer.fleet().await.unwrap().promises;
        let expected = last.clone();
        assert_eq!(promises, vec![Promise { expected, holds: !retracted, retracted }]);
    }
}

pub(crate) async fn only_jobs_that_no_worker_has_claimed_are_withdrawn(broker: &dyn Broker) {
    let (gateway, worker) = (Gateway::new(broker).await, worker(broker).await);
    let claimed = gateway.submit(1).await;
    let deliveries = worker.claim(1).await.unwrap();
    let waiting = gateway.submit(300).await;
    let entries: Vec<_> = claimed.iter().chain(&waiting).copied().collect();
    let withdrawn = gateway.producer.withdraw_waiting(&queue(), &entries).await.unwrap();
    assert_eq!(withdrawn.iter().filter(|is_waiting| **is_waiting).count(), 300);
    assert!(!withdrawn[0]);
    let outstanding = gateway.producer.outstanding(&queue(), &entries).await.unwrap();
    assert_eq!(outstanding.iter().filter(|is_left| **is_left).count(), 1);
    assert!(outstanding[0]);
    // The claimed job still gets its answer.
    let unsent = worker.settle(deliveries.into_iter().map(crate::echo).collect()).await.unwrap();
    assert_eq!(unsent, 0);
}

pub(crate) async fn the_number_of_jobs_that_each_worker_holds_is_known(broker: &dyn Broker) {
    let (observer, gateway) = (observer(broker).await, Gateway::new(broker).await);
    assert!(observer.held(&queue()).await.unwrap().is_empty());
    let (one, two) = (WorkerId(1), WorkerId(2));
    let first = Worker::new(broker, one).await;
    let second = Worker::new(broker, two).await;
    gateway.submit(3).await;
    first.claim(2).await.unwrap();
    let taken = second.claim(1).await.unwrap();
    let held = observer.held(&queue()).await.unwrap();
    assert_eq!((held[&one.to_string()], held[&two.to_string()]), (2, 1));
    second.settle(taken.into_iter().map(crate::echo).collect()).await.unwrap();
    let held = observer.held(&queue()).await.unwrap();
    assert_eq!(held.get(&two.to_string()).copied().unwrap_or_default(), 0);
}

pub(crate) async fn a_worker_that_holds_a_job_is_never_forgotten(broker: &dyn Broker) {
    let (controller, gateway) = (broker.controller().await.unwrap(), Gateway::new(broker).await);
    assert_eq!(controller.forget(&queue(), Duration::ZERO).await.unwrap(), 0);
    let (busy, idle) = (worker(broker).await, worker(broker).await);
    gateway.submit(1).await;
    busy.claim(1).await.unwrap();
    assert_eq!(controller.forget(&queue(), Duration::from_hours(1)).await.unwrap(), 0);
    // The memory broker has no names of idle workers to delete.
    assert!(controller.forget(&queue(), Duration::ZERO).await.unwrap() <= 1);
    let held = observer(broker).await.held(&queue()).await.unwrap();
    assert_eq!(held.values().sum::<u64>(), 1);
    assert_eq!(held.len(), 1, "{held:?}");
    drop(idle);
}
