//! Runs against a stub server that behaves well or badly.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

mod stub;

use std::{net::TcpListener, sync::Arc, time::Duration};

use batchfleet_loadgen::{
    Digits, Echo, Length, LoadError, LoadPlan, Pace, Sampled, Summary, Workload,
    digits::Digit,
    infer::Encoding,
    model::{Metadata, SampleShape},
    page, run,
};

use crate::stub::{Reaction, Stub};

const SECOND: Duration = Duration::from_secs(1);

fn echo(encoding: Encoding) -> Arc<dyn Workload> {
    Arc::new(Echo::new("echo", "x", 1, 64, encoding).unwrap())
}

fn plan(stub: &Stub, users: usize, requests: u64) -> LoadPlan {
    LoadPlan { users, ..LoadPlan::new(stub.target(), echo(Encoding::Binary), requests) }
}

#[tokio::test]
async fn all_answers_of_a_correct_server_are_right() {
    let stub = Stub::start(|_| Reaction::Echo).await;
    for encoding in [Encoding::Binary, Encoding::Json] {
        let plan = LoadPlan { workload: echo(encoding), ..plan(&stub, 7, 500) };
        let report = run(plan).await.unwrap();
        assert!(report.is_flawless(), "{report}");
        assert_eq!((report.sent, report.measured), (500, 500));
        assert!(report.rate() > 0.0 && report.latency(0.5) <= report.latency(0.99), "{report}");
    }
    assert_eq!(stub.connections(), 2 * 7, "each user keeps its connection");
}

#[tokio::test]
async fn users_are_spread_over_the_targets() {
    let (one, two) = (Stub::start(|_| Reaction::Echo).await, Stub::start(|_| Reaction::Echo).await);
    let targets = vec![one.target(), two.target()];
    let report = run(LoadPlan { targets, ..plan(&one, 6, 100) }).await.unwrap();
    assert!(report.is_flawless(), "{report}");
    assert_eq!((one.connections(), two.connections()), (3, 3));
}

#[tokio::test]
async fn an_answer_to_another_request_is_wrong() {
    let stub = Stub::start(|n| if n == 5 { Reaction::EchoOfLast } else { Reaction::Echo }).await;
    let report = run(plan(&stub, 1, 10)).await.unwrap();
    assert_eq!((report.sent, report.right, report.wrong), (10, 9, 1), "{report}");
    assert!(report.troubles[0].contains("got the answer to request 4"), "{report}");
}

#[tokio::test]
async fn refusals_are_counted_by_status_and_keep_the_connection() {
    let stub = Stub::start(|n| match n % 4 {
        1 => Reaction::Refuse(429),
        2 | 3 => Reaction::Refuse(503),
        _ => Reaction::Echo,
    });
    let stub = stub.await;
    let report = run(plan(&stub, 2, 40)).await.unwrap();
    assert_eq!((report.sent, report.right, report.refusals()), (40, 10, 30), "{report}");
    assert_eq!(report.refused, [(429, 10), (503, 20)].into());
    assert_eq!(report.reasons, [("429".to_owned(), 10), ("503".to_owned(), 20)].into());
    assert_eq!((report.dropped_connections, stub.connections()), (0, 2));
    assert!(report.troubles[0].contains("stub refuses"), "{report}");
}

#[tokio::test]
async fn a_connection_cut_while_waiting_is_a_failure_and_a_drop() {
    let stub = Stub::start(|n| if n == 3 { Reaction::Cut } else { Reaction::Echo }).await;
    let report = run(plan(&stub, 1, 10)).await.unwrap();
    assert_eq!((report.right, report.failed, report.dropped_connections), (9, 1, 1), "{report}");
    assert_eq!(stub.connections(), 2);
}

#[tokio::test]
async fn a_connection_closed_as_announced_is_not_dropped() {
    let stub = Stub::start(|n| if n == 3 { Reaction::Goodbye } else { Reaction::Echo }).await;
    let report = run(plan(&stub, 1, 10)).await.unwrap();
    assert!(report.is_flawless(), "{report}");
    assert_eq!(stub.connections(), 2);
}

#[tokio::test]
async fn a_request_without_answer_fails_after_the_timeout() {
    let stub = Stub::start(|n| if n == 0 { Reaction::Silence } else { Reaction::Echo }).await;
    let patience = Duration::from_millis(50);
    let report = run(LoadPlan { timeout: patience, ..plan(&stub, 1, 3) }).await.unwrap();
    assert_eq!((report.right, report.failed, report.dropped_connections), (2, 1, 0), "{report}");
    assert!(report.troubles[0].contains("no answer within 50ms"), "{report}");
}

#[tokio::test]
async fn a_run_ends_after_its_time_and_rates_exclude_the_warm_up() {
    let stub = Stub::start(|_| Reaction::Echo).await;
    let length = Length::Time(Duration::from_millis(200));
    let warm_up = Duration::from_millis(200);
    let report = run(LoadPlan { length, warm_up, ..plan(&stub, 2, 0) }).await.unwrap();
    assert!(report.is_flawless(), "{report}");
    assert_eq!(report.window, Duration::from_millis(200));
    assert!(0 < report.measured && report.measured < report.right, "{report}");
}

#[tokio::test]
async fn a_slow_server_is_measured_neither_too_fast_nor_too_slow() {
    // Two users get an answer every 600 ms. In the measured time, 200 ms to 1 s, each user receives
    // one answer, to a request sent earlier, and sends one request. That request's answer arrives
    // later, and counts with its full latency.
    let slow = Duration::from_millis(600);
    let stub = Stub::start(move |_| Reaction::Stall(slow)).await;
    let (warm_up, length) = (Duration::from_millis(200), Length::Time(Duration::from_millis(800)));
    let report = run(LoadPlan { warm_up, length, ..plan(&stub, 2, 0) }).await.unwrap();
    assert_eq!((report.right, report.measured), (4, 2), "{report}");
    assert!(report.latency(0.0) >= slow && report.later_than(slow / 2) == 2, "{report}");
}

#[tokio::test]
async fn an_open_loop_measures_a_stall_in_all_requests_due_meanwhile() {
    let stall = Duration::from_millis(400);
    let stub = Stub::start(move |n| if n == 20 { Reaction::Stall(stall) } else { Reaction::Echo });
    let stub = stub.await;
    let pace = Pace::Open { per_second: 200.0 };
    let report =
        run(LoadPlan { pace, length: Length::Time(SECOND), ..plan(&stub, 1, 0) }).await.unwrap();
    assert_eq!((report.right, report.wrong), (report.sent, 0), "{report}");
    // About 80 of 200 requests were due during the stall. A closed loop would have measured the
    // stall in one request only.
    assert!(report.latency(0.8) > stall / 4, "{report}");
}

#[tokio::test]
async fn an_open_loop_opens_a_connection_when_it_is_used() {
    let stub = Stub::start(|_| Reaction::Echo).await;
    let pace = Pace::Open { per_second: 100.0 };
    let report = run(LoadPlan { pace, ..plan(&stub, 300, 10) }).await.unwrap();
    assert!(report.is_flawless(), "{report}");
    assert!(stub.connections() <= 11, "{} connections for 10 requests", stub.connections());
}

#[tokio::test]
async fn an_open_loop_reports_requests_without_an_idle_user() {
    let stub = Stub::start(|_| Reaction::Stall(Duration::from_millis(600))).await;
    let pace = Pace::Open { per_second: 100.0 };
    let report =
        run(LoadPlan { pace, length: Length::Time(SECOND), ..plan(&stub, 1, 0) }).await.unwrap();
    assert!(report.sent <= 2 && report.unsent > 50, "{report}");
}

#[tokio::test]
async fn a_closed_port_is_an_error() {
    // A free port: the listener is dropped immediately.
    let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let target = format!("http://{address}").parse().unwrap();
    let error =
        run(LoadPlan { users: 3, ..LoadPlan::new(target, echo(Encoding::Binary), 1) }).await;
    let error = error.unwrap_err();
    assert!(matches!(error, LoadError::Unreachable { .. }), "{error}");
}

#[tokio::test]
async fn a_plan_without_users_or_rate_is_an_error() {
    let stub = Stub::start(|_| Reaction::Echo).await;
    let none = run(plan(&stub, 0, 1)).await.unwrap_err();
    assert!(matches!(none, LoadError::Plan(_)), "{none}");
    let pace = Pace::Open { per_second: 0.0 };
    let never = run(LoadPlan { pace, ..plan(&stub, 1, 1) }).await.unwrap_err();
    assert!(matches!(never, LoadError::Plan(_)), "{never}");
}

#[tokio::test]
async fn more_users_than_open_files_is_an_error_before_the_run() {
    let stub = Stub::start(|_| Reaction::Echo).await;
    let error = run(plan(&stub, usize::MAX / 2, 1)).await.unwrap_err();
    assert!(matches!(error, LoadError::Files { .. }), "{error}");
}

#[tokio::test]
async fn digits_are_checked_by_their_expected_probabilities() {
    let digit = |ink: f32| {
        let mut expected = [0.0; 10];
        expected[3] = ink / 16.0;
        Digit { label: 3, pixels: [ink; 64], expected }
    };
    let digits: Arc<[Digit]> = [digit(8.0), digit(16.0)].into();
    let stub = Stub::start(|_| Reaction::Classify).await;
    for encoding in [Encoding::Binary, Encoding::Json] {
        let load = Arc::new(Digits::new("digits_wide", Arc::clone(&digits), encoding).unwrap());
        let report = run(LoadPlan::new(stub.target(), Arc::clone(&load) as _, 10)).await.unwrap();
        assert!(report.is_flawless(), "{report}");
        assert_eq!(load.accuracy(), Some(1.0));
    }
}

#[tokio::test]
async fn two_thousand_connections_lose_no_request() {
    let stub = Stub::start(|_| Reaction::Echo).await;
    let report = run(plan(&stub, 2000, 10_000)).await.unwrap();
    assert!(report.is_flawless(), "{report}");
    assert_eq!(stub.connections(), 2000);
}

/// Load on the stub's model, with answers learnt from the stub.
async fn sampled(stub: &Stub, encoding: Encoding) -> (Sampled, usize) {
    let model = Metadata::of(&stub.target(), "stub", SECOND).await.unwrap();
    let choice = SampleShape { rows: 1, free: 1, most: 1 };
    let mut sampled = Sampled::draw(&model, encoding, 10, choice).unwrap();
    let twins = sampled.learn(&stub.target(), SECOND, 1e-4).await.unwrap();
    (sampled, twins)
}

#[tokio::test]
async fn learnt_answers_detect_a_mix_up() {
    for encoding in [Encoding::Binary, Encoding::Json] {
        // The answers are learnt from requests 0 to 9. Request 15 gets the answer to another
        // request.
        let stub =
            Stub::start(|n| if n == 15 { Reaction::EchoOfLast } else { Reaction::Echo }).await;
        let (sampled, twins) = sampled(&stub, encoding).await;
        assert_eq!(twins, 0);
        let report = run(LoadPlan::new(stub.target(), Arc::new(sampled), 20)).await.unwrap();
        assert_eq!((report.right, report.wrong), (19, 1), "{report}");
        assert!(report.troubles[0].contains("answer to input 4, not 5"), "{report}");
    }
}

#[tokio::test]
async fn learnt_answers_detect_a_server_that_scales_a_batch_together() {
    // The answers are learnt from requests 0 to 9, each alone.
    let stub = Stub::start(|n| if n < 10 { Reaction::Echo } else { Reaction::ScaleWithLast }).await;
    let (sampled, _) = sampled(&stub, Encoding::Binary).await;
    let report = run(LoadPlan::new(stub.target(), Arc::new(sampled), 20)).await.unwrap();
    assert!(report.wrong >= 4 && report.right + report.wrong == 20, "{report}");
    assert!(report.troubles[0].contains("answer differs from the one that input"), "{report}");
}

#[tokio::test]
async fn an_unknown_model_is_an_error_with_its_name() {
    let stub = Stub::start(|_| Reaction::Echo).await;
    let error = Metadata::of(&stub.target(), "other", SECOND).await.unwrap_err();
    assert!(matches!(error, LoadError::NoModel { .. }), "{error}");
    assert!(error.to_string().contains("no model \"other\""), "{error}");
}

#[tokio::test]
async fn a_model_that_fails_single_requests_is_an_error_before_the_run() {
    let stub = Stub::start(|_| Reaction::Refuse(500)).await;
    let model = Metadata::of(&stub.target(), "stub", SECOND).await.unwrap();
    let choice = SampleShape { rows: 1, free: 1, most: 1 };
    let mut sampled = Sampled::draw(&model, Encoding::Binary, 3, choice).unwrap();
    let error = sampled.learn(&stub.target(), SECOND, 1e-4).await.unwrap_err();
    assert!(error.to_string().contains("500"), "{error}");
}

#[tokio::test]
async fn a_refused_user_pauses_for_retry_after() {
    let stub = Stub::start(|n| if n == 0 { Reaction::Refuse(503) } else { Reaction::Echo }).await;
    let plan = LoadPlan { honour_retry_after: true, journal: true, ..plan(&stub, 1, 2) };
    let report = run(plan).await.unwrap();
    let [refused, next] = &report.journal[..] else { panic!("{report}") };
    assert!(next.sent >= refused.done + SECOND, "{:?}", report.journal);
}

#[tokio::test]
async fn a_report_has_a_timeline_and_a_page_with_charts() {
    let stub = Stub::start(|_| Reaction::Echo).await;
    let length = Length::Time(Duration::from_millis(1500));
    let report = run(LoadPlan { length, ..plan(&stub, 2, 0) }).await.unwrap();
    assert_eq!(report.timeline.len(), 1);
    assert!(report.timeline[0].right > 0 && report.timeline[0].right < report.right);
    let summary = Summary::new(&report, Some(Duration::ZERO));
    assert_eq!(summary.late, Some(report.right), "every answer takes more than 0 s");
    assert!(report.goodput(Duration::ZERO) < 0.1 && report.goodput(SECOND) > 0.1);
    let page = page::html("echo & <all>", &report, &summary);
    assert!(page.contains("<title>echo &amp; &lt;all&gt;</title>"), "{page}");
    assert_eq!(page.matches("<svg").count(), 3);
    assert!(!page.contains("NaN") && !page.contains("inf"), "{page}");
}

#[tokio::test]
async fn an_api_key_is_printable_ascii() {
    let target = Stub::start(|_| Reaction::Echo).await.target();
    assert!(target.clone().with_key("secret").is_ok());
    assert!(target.with_key("line\nbreak").is_err());
}
