//! Promises about traffic reports.

use std::time::Duration;

use batchfleet_broker::{Broker, Traffic};
use tokio::{task::yield_now, time::timeout};

use crate::{Gateway, observer, queue};

fn offered(offered: u64) -> Traffic {
    Traffic {
        queue: queue(),
        offered,
        refused: 1,
        rows_per_request: 1.5,
        answered: offered - 1,
        seconds: vec![(0.01, offered - 2), (0.1, 1)],
    }
}

pub(crate) async fn a_gateway_that_reported_nothing_has_no_traffic(broker: &dyn Broker) {
    let _gateway = Gateway::new(broker).await;
    assert_eq!(observer(broker).await.traffic().await.unwrap(), []);
}

pub(crate) async fn the_last_report_of_a_gateway_is_read_with_its_age(broker: &dyn Broker) {
    let (one, two) = (Gateway::new(broker).await, Gateway::new(broker).await);
    for (gateway, count) in [(&one, 10), (&one, 20), (&two, 30)] {
        gateway.producer.report(&[offered(count)]).await.unwrap();
    }
    let observer = observer(broker).await;
    let aged = async {
        loop {
            let mut reports = observer.traffic().await.unwrap();
            if reports.iter().all(|report| report.age >= Duration::from_millis(20)) {
                reports.sort_by_key(|report| report.traffic[0].offered);
                break reports;
            }
            yield_now().await;
        }
    };
    let reports = timeout(Duration::from_secs(10), aged).await.unwrap();
    let reported: Vec<_> =
        reports.iter().map(|report| (report.gateway.as_str(), &report.traffic)).collect();
    let (first, second) = (one.id.to_string(), two.id.to_string());
    assert_eq!(reported, [(first.as_str(), &vec![offered(20)]), (&second, &vec![offered(30)])]);
}
