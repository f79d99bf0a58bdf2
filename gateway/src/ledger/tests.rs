use batchfleet_broker::{GatewayId, Priority, Timing};

use super::*;

const PATIENCE: Duration = Duration::from_secs(30);

/// A ledger with one leaving request, number 1; and the time.
fn ledger_of_one() -> (Ledger<&'static str>, Instant) {
    let now = Instant::now();
    let mut ledger = Ledger::new(10, now);
    ledger.accept(job(1), now + PATIENCE, "caller");
    (ledger, now)
}

fn job(number: u128) -> Arc<Job> {
    Arc::new(Job {
        id: RequestId(number),
        gateway: GatewayId(7),
        attempt: 0,
        priority: Priority::Default,
        ttl: PATIENCE,
        rows: 1,
        digest: 42,
        inputs: Vec::new(),
        outputs: Vec::new(),
        trace: None,
        classes: Vec::new(),
        offer: None,
    })
}

fn entry(sequence: u64) -> EntryId {
    EntryId { sequence, ..EntryId::default() }
}

fn reply(number: u128, digest: u64) -> Reply {
    let timing = Timing::default();
    Reply {
        id: RequestId(number),
        attempt: 0,
        digest,
        timing,
        outcome: Ok(Vec::new()),
        pushed: None,
    }
}

const ONE: RequestId = RequestId(1);

#[test]
fn the_first_answer_is_delivered_and_later_ones_are_unclaimed() {
    let (mut ledger, now) = ledger_of_one();
    assert!(ledger.sent(ONE, entry(1), now));
    assert_eq!(ledger.resolve(&mut reply(1, 42)), Resolution::Deliver("caller"));
    assert_eq!(ledger.resolve(&mut reply(1, 42)), Resolution::Unclaimed);
    assert_eq!(ledger.resolve(&mut reply(2, 42)), Resolution::Unclaimed);
}

#[test]
fn an_answer_may_come_before_the_confirmation_of_its_job() {
    let (mut ledger, now) = ledger_of_one();
    assert_eq!(ledger.resolve(&mut reply(1, 42)), Resolution::Deliver("caller"));
    assert!(!ledger.sent(ONE, entry(1), now), "the request has ended");
}

#[test]
fn the_line_is_sent_oldest_first_up_to_a_size_and_without_ended_requests() {
    let now = Instant::now();
    let mut ledger = Ledger::new(10, now);
    for number in 1..=5 {
        ledger.accept(job(number), now + PATIENCE, "caller");
        ledger.line_up(RequestId(number));
    }
    ledger.forget(RequestId(2));
    let mut next =
        |size| ledger.next_in_line(size).iter().map(|(job, _)| job.id.0).collect::<Vec<_>>();
    let size = job(1).size();
    assert_eq!(next(2 * size), [1, 3]);
    assert_eq!(next(size - 1), [4], "one job, however large");
    assert_eq!(next(2 * size), [5]);
    assert!(next(2 * size).is_empty());
}

#[test]
fn an_answer_computed_from_another_input_is_not_delivered() {
    let (mut ledger, _) = ledger_of_one();
    assert_eq!(ledger.resolve(&mut reply(1, 43)), Resolution::Misrouted("caller"));
}

#[test]
fn a_job_that_did_not_reach_the_queue_is_sent_again_as_the_same_attempt() {
    let (mut ledger, now) = ledger_of_one();
    ledger.unsent(ONE);
    let later = now + Duration::from_secs(10);
    let (job, caller) = ledger.take_unsent(later).pop().unwrap();
    assert_eq!((job.attempt, job.ttl, *caller), (0, Duration::from_secs(20), "caller"));
    assert!(ledger.take_unsent(later).is_empty(), "the request is leaving already");
    ledger.unsent(ONE);
    assert!(ledger.take_unsent(now + PATIENCE).is_empty(), "the deadline has passed");
}

#[test]
fn only_jobs_last_seen_before_the_interruption_are_presumed_lost() {
    let (mut ledger, now) = ledger_of_one();
    ledger.sent(ONE, entry(1), now);
    assert!(ledger.presumed_lost(now).is_empty());
    let later = now + SILENCE;
    assert_eq!(ledger.presumed_lost(later), [(ONE, entry(1), &"caller")]);
    ledger.found(ONE, entry(1), later);
    assert!(ledger.presumed_lost(later).is_empty());
}

#[test]
fn a_lost_job_is_sent_again_under_the_same_id() {
    let (mut ledger, now) = ledger_of_one();
    ledger.sent(ONE, entry(1), now);
    assert!(ledger.lost(ONE, entry(1), now));
    let (job, _) = ledger.take_unsent(now).pop().unwrap();
    assert_eq!((job.id, job.attempt), (ONE, 1));
    ledger.sent(ONE, entry(2), now);
    assert!(!ledger.lost(ONE, entry(1), now), "its former entry");
    assert_eq!(ledger.forget(ONE), Some(entry(2)));
}

#[test]
fn a_job_that_a_worker_dropped_is_sent_again_unless_the_drop_is_of_a_former_attempt() {
    let (mut ledger, now) = ledger_of_one();
    ledger.sent(ONE, entry(1), now);
    ledger.dropped(ONE, 0, now);
    assert_eq!(ledger.take_unsent(now).pop().unwrap().0.attempt, 1);
    ledger.dropped(ONE, 0, now);
    assert!(ledger.take_unsent(now).is_empty(), "a former attempt");
    // The report of the drop may arrive before the confirmation that the job was queued.
    ledger.dropped(ONE, 1, now);
    assert!(ledger.sent(ONE, entry(2), now), "the request has not ended");
    assert_eq!(ledger.take_unsent(now).pop().unwrap().0.attempt, 2);
    assert_eq!(ledger.resolve(&mut reply(1, 42)), Resolution::Deliver("caller"));
    ledger.dropped(ONE, 2, now);
    assert!(ledger.is_empty());
}

#[test]
fn a_request_is_sent_four_times_at_most() {
    let (mut ledger, now) = ledger_of_one();
    let mut times = 1;
    ledger.sent(ONE, entry(times), now);
    while ledger.lost(ONE, entry(times), now) {
        times += 1;
        assert_eq!(ledger.take_unsent(now).len(), 1);
        ledger.sent(ONE, entry(times), now);
    }
    assert_eq!(times, u64::from(MOST_ATTEMPTS));
}

#[test]
fn many_losses_exhaust_the_budget_and_time_restores_it() {
    let now = Instant::now();
    let mut ledger = Ledger::new(2, now);
    for number in 1..=3 {
        ledger.accept(job(number), now + PATIENCE, ());
        ledger.sent(RequestId(number), entry(1), now);
    }
    let lost = |ledger: &mut Ledger<()>, number, now| ledger.lost(RequestId(number), entry(1), now);
    assert_eq!([1, 2, 3].map(|number| lost(&mut ledger, number, now)), [true, true, false]);
    assert!(lost(&mut ledger, 3, now + Duration::from_millis(100)));
}

#[test]
fn a_request_that_is_given_up_returns_its_entry() {
    let (mut ledger, now) = ledger_of_one();
    ledger.sent(ONE, entry(5), now);
    assert_eq!(ledger.forget(ONE), Some(entry(5)));
    assert_eq!(ledger.forget(ONE), None);
    assert_eq!(ledger.resolve(&mut reply(1, 42)), Resolution::Unclaimed);
}
