//! Promises about jobs, replies and announcements.

use std::{collections::HashSet, time::Duration};

use batchfleet_broker::{
    Announcement, Backlog, Broker, Datatype, Failure, Job, ObservedWorker, Priority, QueueName,
    Release, Reply, ReplyError, RequestId, Settlement, Tensor, Timing, WorkerId, wire,
};
use tokio::time::{Instant, sleep};

use crate::{Gateway, Worker, echoes, markers, observer, queue, spec, worker};

pub(crate) async fn jobs_are_claimed_in_order_of_submission_up_to_the_limit(broker: &dyn Broker) {
    let (gateway, worker) = (Gateway::new(broker).await, worker(broker).await);
    let entries = gateway.submit(7).await;
    assert!(entries.is_sorted());

    let first = worker.claim(3).await.unwrap();
    assert_eq!(markers(&first), [0, 1, 2]);
    assert_eq!(first.iter().map(|delivery| delivery.entry).collect::<Vec<_>>(), entries[..3]);
    assert_eq!(markers(&worker.claim(100).await.unwrap()), [3, 4, 5, 6]);
    assert!(worker.claim(0).await.unwrap().is_empty());
}

pub(crate) async fn jobs_submitted_together_keep_their_order_in_each_class(broker: &dyn Broker) {
    let (gateway, worker) = (Gateway::new(broker).await, worker(broker).await);
    let classes = Priority::ALL.into_iter().cycle();
    let jobs: Vec<_> =
        (0..30).zip(classes).map(|(n, priority)| Job { priority, ..gateway.job(n) }).collect();
    let queue = queue();
    let together: Vec<_> = jobs.iter().map(|job| (&queue, job)).collect();
    let submitted = gateway.producer.submit_all(&together).await;
    let entries: Vec<_> = submitted.into_iter().map(Result::unwrap).collect();
    let batch = worker.claim(30).await.unwrap();
    let by_class = |class: usize| (0..10).map(move |n| 3 * n + class);
    let expected: Vec<_> = (0..3).flat_map(by_class).collect();
    let marks = markers(&batch).into_iter().map(|mark| usize::try_from(mark).unwrap());
    assert_eq!(marks.collect::<Vec<_>>(), expected);
    for (delivery, n) in batch.iter().zip(expected) {
        assert_eq!(delivery.entry, entries[n]);
    }
    assert!(gateway.producer.submit_all(&[]).await.is_empty());
}

pub(crate) async fn a_batch_joins_jobs_of_many_gateways_and_each_receives_its_own_replies(
    broker: &dyn Broker,
) {
    let worker = worker(broker).await;
    let mut gateways = Vec::new();
    for _ in 0..4 {
        gateways.push(Gateway::new(broker).await);
    }
    let mut asked = vec![Vec::new(); gateways.len()];
    for round in 0..3 {
        for (gateway, asked) in gateways.iter().zip(&mut asked) {
            let job = gateway.job(round);
            asked.push(job.id);
            gateway.producer.submit(&queue(), &job).await.unwrap();
        }
    }
    let batch = worker.claim(100).await.unwrap();
    assert_eq!(batch.len(), 12);
    assert_eq!(worker.settle(echoes(batch)).await.unwrap(), 0);
    for (gateway, asked) in gateways.iter().zip(asked) {
        let answered: Vec<_> = gateway.receive().await.iter().map(|reply| reply.id).collect();
        assert_eq!(answered, asked);
    }
}

pub(crate) async fn a_job_and_its_reply_arrive_as_they_were_sent(broker: &dyn Broker) {
    let (gateway, worker) = (Gateway::new(broker).await, worker(broker).await);
    let tensor = |length: u32, datatype| Tensor {
        name: format!("tensor of {length}"),
        datatype,
        shape: vec![u64::from(length), 0, u64::MAX],
        data: (0..length).map(|i| i.to_le_bytes()[0]).collect::<Vec<_>>().into(),
    };
    let inputs = [0, 1, 3, 127, 4095, 100_003].map(|length| tensor(length, Datatype::Bytes));
    let sent = Job {
        attempt: 3,
        priority: Priority::Sheddable,
        rows: 5,
        digest: wire::digest(&inputs),
        inputs: inputs.to_vec(),
        outputs: vec!["a".into(), "ß".into()],
        trace: batchfleet_broker::TraceContext::new(5, 6),
        classes: vec![batchfleet_broker::ClassCount { output: "y".to_owned(), count: 3 }],
        ..gateway.job(0)
    };
    gateway.producer.submit(&queue(), &sent).await.unwrap();
    let delivery = worker.claim(1).await.unwrap().remove(0);
    assert_eq!((&delivery.job, delivery.deliveries), (&sent, 1));

    let timing = Timing {
        queue: delivery.waited,
        compute_infer: Duration::from_nanos(123_456_789),
        batch_rows: 5,
        padded_rows: 3,
        release: Some(Release::Full),
        ..Timing::default()
    };
    let good = Reply {
        id: sent.id,
        attempt: sent.attempt,
        digest: sent.digest,
        timing,
        outcome: Ok(vec![tensor(0, Datatype::Bool), tensor(12_289, Datatype::Bf16)]),
        pushed: None,
    };
    let large = Reply { outcome: Ok(vec![tensor(3_000_000, Datatype::Bytes)]), ..good.clone() };
    let error = ReplyError { failure: Failure::Model, message: "it failed".into() };
    let bad = Reply { outcome: Err(error), id: RequestId::random(), ..good.clone() };
    let settlement = |reply| Settlement { entry: delivery.entry, gateway: gateway.id, reply };
    worker.settle(vec![settlement(good.clone()), settlement(bad.clone())]).await.unwrap();
    assert_eq!(gateway.receive().await, [good, bad]);
    worker.settle(vec![settlement(large.clone())]).await.unwrap();
    assert_eq!(gateway.receive().await, [large]);
}

pub(crate) async fn settling_empties_the_queue_and_the_backlog_follows(broker: &dyn Broker) {
    let (gateway, worker) = (Gateway::new(broker).await, worker(broker).await);
    let observer = observer(broker).await;
    let backlog = async || {
        let backlog = observer.backlog(&queue()).await.unwrap();
        (backlog.depth(), backlog.in_flight, backlog.added)
    };
    assert_eq!(backlog().await, (0, 0, 0));
    gateway.submit(5).await;
    assert_eq!(backlog().await, (5, 0, 5));
    let batch = worker.claim(2).await.unwrap();
    assert_eq!(backlog().await, (3, 2, 5));
    worker.settle(echoes(batch)).await.unwrap();
    assert_eq!(backlog().await, (3, 0, 5));
    let batch = worker.claim(5).await.unwrap();
    worker.settle(echoes(batch)).await.unwrap();
    let empty = Backlog { added: 5, ..Backlog::default() };
    assert_eq!(observer.backlog(&queue()).await.unwrap(), empty);
}

pub(crate) async fn the_backlog_has_the_age_of_the_oldest_waiting_job(broker: &dyn Broker) {
    let (gateway, worker) = (Gateway::new(broker).await, worker(broker).await);
    let observer = observer(broker).await;
    gateway.submit(1).await;
    sleep(Duration::from_millis(150)).await;
    let second = Instant::now();
    gateway.submit(1).await;
    let age = async || observer.backlog(&queue()).await.unwrap().oldest_age;
    let old = age().await;
    assert!(old >= Duration::from_millis(149), "{old:?}");
    worker.claim(1).await.unwrap();
    let young = age().await;
    assert!(young <= second.elapsed() + Duration::from_millis(1), "{young:?}");
    worker.claim(1).await.unwrap();
    assert_eq!(age().await, Duration::ZERO);
}

pub(crate) async fn an_unknown_queue_is_empty(broker: &dyn Broker) {
    let unknown = QueueName::new("unknown", 7);
    let backlog = observer(broker).await.backlog(&unknown).await.unwrap();
    assert_eq!(backlog, Backlog::default());
}

pub(crate) async fn replies_to_a_gateway_that_is_gone_are_counted(broker: &dyn Broker) {
    let (here, gone, worker) =
        (Gateway::new(broker).await, Gateway::new(broker).await, worker(broker).await);
    here.submit(1).await;
    gone.submit(2).await;
    drop(gone);
    let batch = worker.claim(10).await.unwrap();
    // Redis notices the closed connection with a short delay.
    let mut settlements = echoes(batch);
    let mut undelivered = 0;
    let patience = Instant::now() + Duration::from_secs(10);
    while undelivered < 2 && Instant::now() < patience {
        let again = settlements
            .iter()
            .map(|&Settlement { entry, gateway, ref reply }| {
                let reply = reply.clone();
                Settlement { entry, gateway, reply }
            })
            .collect();
        undelivered = worker.settle(std::mem::replace(&mut settlements, again)).await.unwrap();
    }
    assert_eq!(undelivered, 2);
    assert_eq!(here.receive().await.len(), 1);
}

pub(crate) async fn a_withdrawn_job_is_never_claimed(broker: &dyn Broker) {
    let (gateway, worker) = (Gateway::new(broker).await, worker(broker).await);
    let entries = gateway.submit(3).await;
    gateway.producer.withdraw(&queue(), entries[1]).await.unwrap();
    assert_eq!(markers(&worker.claim(10).await.unwrap()), [0, 2]);
}

pub(crate) async fn withdrawing_a_claimed_job_leaves_it_to_its_worker(broker: &dyn Broker) {
    let (gateway, worker) = (Gateway::new(broker).await, worker(broker).await);
    let entries = gateway.submit(1).await;
    let batch = worker.claim(10).await.unwrap();
    gateway.producer.withdraw(&queue(), entries[0]).await.unwrap();
    worker.settle(echoes(batch)).await.unwrap();
    assert_eq!(gateway.receive().await.len(), 1);
    let backlog = observer(broker).await.backlog(&queue()).await.unwrap();
    assert_eq!((backlog.depth(), backlog.in_flight), (0, 0));
}

pub(crate) async fn jobs_handed_back_are_claimed_again_in_order(broker: &dyn Broker) {
    let (gateway, one, other) =
        (Gateway::new(broker).await, worker(broker).await, worker(broker).await);
    gateway.submit(4).await;
    let batch = one.claim(10).await.unwrap();
    one.hand_back(batch).await.unwrap();
    let backlog = observer(broker).await.backlog(&queue()).await.unwrap();
    assert_eq!((backlog.depth(), backlog.in_flight), (4, 0));
    let again = other.claim(10).await.unwrap();
    assert_eq!(markers(&again), [0, 1, 2, 3]);
    assert!(again.iter().all(|delivery| delivery.deliveries == 1), "handed back, not lost");
}

pub(crate) async fn a_job_handed_back_keeps_its_deadline(broker: &dyn Broker) {
    let (gateway, worker) = (Gateway::new(broker).await, worker(broker).await);
    gateway.submit(1).await;
    sleep(Duration::from_millis(100)).await;
    let before = worker.claim(1).await.unwrap();
    let deadline = before[0].deadline;
    sleep(Duration::from_millis(100)).await;
    worker.hand_back(before).await.unwrap();
    sleep(Duration::from_millis(100)).await;
    let after = worker.claim(1).await.unwrap()[0].deadline;
    assert!(after - deadline.min(after) < Duration::from_millis(50));
    assert!(deadline - after.min(deadline) < Duration::from_millis(50));
}

pub(crate) async fn a_delivery_knows_how_long_it_waited_and_when_it_expires(broker: &dyn Broker) {
    let (gateway, worker) = (Gateway::new(broker).await, worker(broker).await);
    let submitted = Instant::now();
    gateway.submit(1).await;
    sleep(Duration::from_millis(200)).await;
    let delivery = worker.claim(1).await.unwrap().remove(0);
    assert!(delivery.waited >= Duration::from_millis(198), "{:?}", delivery.waited);
    assert!(delivery.waited <= submitted.elapsed() + Duration::from_millis(2));
    assert!(delivery.claimed_at <= Instant::now());
    let left = delivery.deadline - delivery.claimed_at;
    assert_eq!(left + delivery.waited, delivery.job.ttl);
}

pub(crate) async fn an_expired_job_is_delivered_as_expired(broker: &dyn Broker) {
    let (gateway, worker) = (Gateway::new(broker).await, worker(broker).await);
    let job = Job { ttl: Duration::from_millis(20), ..gateway.job(0) };
    gateway.producer.submit(&queue(), &job).await.unwrap();
    sleep(Duration::from_millis(60)).await;
    let delivery = worker.claim(1).await.unwrap().remove(0);
    assert!(delivery.deadline < delivery.claimed_at);
}

pub(crate) async fn an_announced_worker_is_live_until_it_retires(broker: &dyn Broker) {
    let observer = observer(broker).await;
    let workers = async || observer.fleet().await.unwrap().workers;
    assert_eq!(workers().await, []);
    let id = WorkerId::random();
    let worker = Worker::new(broker, id).await;
    let announcement =
        Announcement { capacity: 1234.5, batch_limit: 32, ..Announcement::new(id, spec()) };
    worker.renew(&announcement).await.unwrap();
    worker.renew(&announcement).await.unwrap();
    let living = ObservedWorker { announcement, live: true };
    assert_eq!(workers().await, std::slice::from_ref(&living));
    worker.retire().await.unwrap();
    assert_eq!(workers().await, [ObservedWorker { live: false, ..living }]);
}

pub(crate) async fn a_worker_that_stops_renewing_is_known_but_not_live(broker: &dyn Broker) {
    let observer = observer(broker).await;
    let id = WorkerId::random();
    let worker = Worker::new(broker, id).await;
    worker.renew(&Announcement::new(id, spec())).await.unwrap();
    let renewed = Instant::now();
    let silent = loop {
        let workers = observer.fleet().await.unwrap().workers;
        assert_eq!(workers.len(), 1);
        if !workers[0].live || renewed.elapsed() > Duration::from_secs(10) {
            break renewed.elapsed();
        }
        sleep(Duration::from_millis(20)).await;
    };
    assert!((2.9..5.0).contains(&silent.as_secs_f64()), "{silent:?}");
}

pub(crate) async fn a_claim_waits_about_a_second_and_then_returns_nothing(broker: &dyn Broker) {
    let worker = worker(broker).await;
    let started = Instant::now();
    assert!(worker.claim(4).await.unwrap().is_empty());
    let waited = started.elapsed().as_secs_f64();
    assert!((0.9..3.0).contains(&waited), "{waited} s");
}

pub(crate) async fn a_waiting_claim_wakes_as_soon_as_a_job_comes(broker: &dyn Broker) {
    let (gateway, worker) = (Gateway::new(broker).await, worker(broker).await);
    let started = Instant::now();
    // `join!` polls the claim first, so the claim is waiting when the job arrives.
    let (batch, _) = tokio::join!(worker.claim(4), async {
        sleep(Duration::from_millis(100)).await;
        gateway.submit(1).await
    });
    assert_eq!(markers(&batch.unwrap()), [0]);
    let waited = started.elapsed().as_secs_f64();
    assert!((0.1..0.7).contains(&waited), "{waited} s");
}

pub(crate) async fn two_consumers_never_share_a_job(broker: &dyn Broker) {
    let (gateway, one, other) =
        (Gateway::new(broker).await, worker(broker).await, worker(broker).await);
    let claim = async |worker: &Worker| {
        let mut claimed = Vec::new();
        loop {
            let batch = worker.claim(3).await.unwrap();
            if batch.is_empty() {
                return claimed;
            }
            claimed.extend(markers(&batch));
            tokio::task::yield_now().await;
        }
    };
    let (_, one, other) = tokio::join!(gateway.submit(100), claim(&one), claim(&other));
    let all: HashSet<_> = one.iter().chain(&other).copied().collect();
    assert_eq!((one.len() + other.len(), all.len()), (100, 100));
}

pub(crate) async fn a_job_submitted_before_any_worker_is_claimed(broker: &dyn Broker) {
    let gateway = Gateway::new(broker).await;
    gateway.submit(2).await;
    let backlog = observer(broker).await.backlog(&queue()).await.unwrap();
    assert_eq!((backlog.depth(), backlog.in_flight), (2, 0));
    assert_eq!(markers(&worker(broker).await.claim(10).await.unwrap()), [0, 1]);
}
