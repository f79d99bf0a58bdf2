//! Promises about what gateways hear of workers.

use std::time::Duration;

use batchfleet_broker::{Announcement, Broker, ObservedWorker, Observer, WorkerId};
use tokio::time::{Instant, sleep};

use crate::{Worker, observer, spec};

/// The workers in the next news, which must come within `limit`.
async fn next_news(observer: &dyn Observer, limit: Duration) -> Vec<ObservedWorker> {
    let asked = Instant::now();
    loop {
        if let Some(snapshot) = observer.news().await.unwrap() {
            return snapshot.workers;
        }
        assert!(asked.elapsed() < limit, "no news in {limit:?}");
        sleep(Duration::from_millis(10)).await;
    }
}

const AT_ONCE: Duration = Duration::ZERO;

pub(crate) async fn a_worker_that_comes_or_goes_is_news_at_once(broker: &dyn Broker) {
    let observer = observer(broker).await;
    assert_eq!(next_news(&*observer, AT_ONCE).await, []);
    let (id, other) = (WorkerId::random(), WorkerId::random());
    let (worker, second) = (Worker::new(broker, id).await, Worker::new(broker, other).await);
    let announcement =
        Announcement { capacity: 1234.5, batch_limit: 32, ..Announcement::new(id, spec()) };
    worker.renew(&announcement).await.unwrap();
    let living = ObservedWorker::live(announcement.clone());
    assert_eq!(next_news(&*observer, AT_ONCE).await, std::slice::from_ref(&living));
    second.renew(&Announcement::new(other, spec())).await.unwrap();
    assert_eq!(next_news(&*observer, AT_ONCE).await.len(), 2);
    second.retire().await.unwrap();
    let workers = next_news(&*observer, AT_ONCE).await;
    assert_eq!(workers.len(), 2);
    assert!(workers.contains(&living));
    assert!(workers.iter().any(|worker| !worker.live));
}

pub(crate) async fn another_n_is_news_within_a_second(broker: &dyn Broker) {
    let observer = observer(broker).await;
    let id = WorkerId::random();
    let worker = Worker::new(broker, id).await;
    let mut announcement = Announcement { batch_limit: 32, ..Announcement::new(id, spec()) };
    worker.renew(&announcement).await.unwrap();
    assert_eq!(next_news(&*observer, AT_ONCE).await[0].announcement.batch_limit, 32);
    announcement.batch_limit = 16;
    worker.renew(&announcement).await.unwrap();
    let changed = Instant::now();
    while next_news(&*observer, Duration::from_secs(2)).await[0].announcement.batch_limit != 16 {
        assert!(changed.elapsed() < Duration::from_secs(2));
    }
}

pub(crate) async fn a_worker_that_stops_renewing_is_dead_in_the_news(broker: &dyn Broker) {
    let observer = observer(broker).await;
    let id = WorkerId::random();
    let worker = Worker::new(broker, id).await;
    worker.renew(&Announcement::new(id, spec())).await.unwrap();
    let renewed = Instant::now();
    loop {
        let workers = next_news(&*observer, Duration::from_secs(2)).await;
        assert_eq!(workers.len(), 1);
        if !workers[0].live {
            break;
        }
        assert!(renewed.elapsed() < Duration::from_secs(10));
        sleep(Duration::from_millis(20)).await;
    }
    let silent = renewed.elapsed().as_secs_f64();
    assert!((2.9..5.0).contains(&silent), "{silent:?}");
}
