//! The table of faults. A fault is a function that runs one trial and returns the findings.

mod attacks;
mod clients;
mod clusters;
mod gateways;
mod model;
mod network;
mod operations;
mod overload;
mod redis;
mod redis_ill;
mod shards;
mod slow;
mod upgrade;
mod workers;

use std::path::PathBuf;

use crate::trial::{RunningTrial, Scale};

/// A row of the table of faults.
pub(crate) struct Fault {
    /// `F01` to `F49`. Ids are never reused.
    pub(crate) id: &'static str,
    /// What fails, and how.
    pub(crate) what: &'static str,
    /// The load: L1 is a closed loop, L2 an open loop below capacity, L3 an overload.
    pub(crate) load: &'static str,
    /// The promises of this fault. `Trial::finish` checks further ones after every fault.
    pub(crate) pass: &'static str,
    /// Whether the fault is part of the short tier.
    pub(crate) short: bool,
    /// Runs the trial.
    pub(crate) run: fn(&TrialOptions) -> RunningTrial,
}

/// The options of a trial.
pub(crate) struct TrialOptions {
    pub(crate) scale: Scale,
    /// Folder with the programs of an older version, which F35 needs and F46 uses.
    pub(crate) previous: Option<PathBuf>,
}

/// Defines a fault whose function needs no option but the scale.
macro_rules! fault {
    ($id:literal, $short:literal, $what:literal, $load:literal, $pass:literal, $run:path) => {
        Fault {
            id: $id,
            what: $what,
            load: $load,
            pass: $pass,
            short: $short,
            run: |options| Box::pin($run(options.scale)),
        }
    };
}

/// All faults that one machine can produce. In F05 and F06 the echo model simulates a broken
/// device. F30 to F32 need a cluster, and F36 runs overnight.
#[rustfmt::skip]
pub(crate) const FAULTS: &[Fault] = &[
    fault!("F01", true, "kill -9 a random worker every 2 s, back 1 s later", "L1",
        "all 200; p99 ≤ baseline + 5 s; max ≤ 12 s", workers::killed_in_turn),
    fault!("F02", false, "kill -9 all workers, back after 10 s", "L1",
        "only 200 and 503 no_workers; every held request done ≤ 15 s after the return", workers::all_killed),
    fault!("F03", true, "SIGSTOP a worker for 20 s in the middle of a batch, SIGCONT", "L1",
        "all 200; the batch runs again ≤ 5 s; late answers dropped", workers::stopped),
    fault!("F04", false, "a worker's link to Redis goes dark", "L2",
        "all 200; ≤ 2N requests stranded; max ≤ 8 s", network::worker_blackholed),
    fault!("F05", false, "a run that never returns", "L2",
        "all others 200; process gone ≤ 11 s; max ≤ 16 s", model::hung_run),
    fault!("F06", false, "a fatal device error, then garbage from every run", "L2",
        "all others 200; process gone ≤ 1 s; no answer from it", model::lost_device),
    fault!("F07", false, "inputs that abort the process, 1 in 5000", "L2",
        "≤ 3 crashes each; answered 500 ≤ 15 s; all others 200", model::killing_inputs),
    fault!("F08", false, "rows that fail; then no memory for N > 16", "L2",
        "only those rows fail; others ≤ 2 batches later; N ≤ 16 in 10 s", model::failing_rows),
    fault!("F09", true, "rolling restart of all workers by SIGTERM", "L2",
        "all 200; nothing runs twice; p99 ≤ 1.5x", workers::rolling_restart),
    fault!("F10", false, "SIGTERM with less grace than a batch takes, then SIGKILL", "L2",
        "all 200; the process is gone when its grace ends", workers::too_little_grace),
    fault!("F11", false, "kill -9 one gateway every 5 s", "L2",
        "the other gateway's clients all 200; ≥ 90 % of the killed one's waiting requests never run", gateways::killed),
    fault!("F12", true, "rollout of all gateways, endpoints 5 s behind", "L2",
        "all 200; no connection refused", gateways::rollout),
    fault!("F13", false, "5000 clients send 4 MiB at once", "-",
        "only 200, 413, 503; memory ≤ 80 % of 1 GiB; health checks ≤ 100 ms", slow::heavy_bodies),
    fault!("F14", true, "kill -9 Redis with AOF, back after 2 s, again and again", "L1",
        "all 200; answers again ≤ 3 s after Redis is back", redis::killed_with_aof),
    fault!("F15", true, "kill -9 Redis, back empty after 2 s, again and again", "L1",
        "as F14; no more repeated runs than requests in flight + 1 %", redis::killed_and_empty),
    fault!("F16", true, "FLUSHALL; DEL of the request streams; also at 50 µs a batch", "L1",
        "all 200; max ≤ 9 s", redis::emptied),
    fault!("F17", false, "failover that loses the last second of writes", "L1",
        "all 200; max ≤ failover + 5 s", network::failover),
    fault!("F18", false, "a gateway and the old primary cut off from the rest for 20 s", "L2",
        "the others all 200; isolated only 200, 503, 504; normal ≤ 5 s after", network::partition),
    fault!("F19", false, "SIGSTOP Redis for 1, 5, 20 s", "L2",
        "1 s: no error; 5 and 20 s: new requests 503 ≤ 1.1 s, held requests 200", redis_ill::frozen),
    fault!("F20", false, "Redis: no memory; no disk; no clients; new password", "L2",
        "refusals ≤ 50 ms; no program ends; all 200 again ≤ 5 s after", redis_ill::refusing),
    fault!("F21", false, "links to Redis: 0 to 100 ms of delay each way, stalls, cuts; N = 64", "L2",
        "all 200; throughput ≥ 70 %", network::bad_weather),
    fault!("F22", true, "reply connections killed every 500 ms", "L2",
        "all 200; p99 ≤ baseline + 1 s", redis::replies_cut),
    fault!("F23", false, "1000 clients read 1 KiB a second", "L2",
        "other requests' p99 ≤ 1.2x; memory bounded", slow::slow_readers),
    fault!("F24", false, "5000 clients send their head or body one byte a second", "L2",
        "other requests ≥ 99.9 % right; slow connections closed ≤ 15 s", slow::slow_senders),
    fault!("F25", true, "ten times the fleet's capacity", "L3",
        "goodput ≥ 90 % of peak; refusal p99 ≤ 10 ms; ≥ 99 % of the admitted in time", overload::ten_times),
    fault!("F26", false, "ten times the capacity, from clients that try three times; then 80 %", "L3",
        "≥ 95 % right 10 s after the drop", overload::retrying_clients),
    fault!("F27", false, "one tenant at 100x its quota", "L2",
        "other tenants ≥ 99.9 % right, p99 ≤ 1.3x; 429 only to the noisy one", clients::noisy_tenant),
    fault!("F28", true, "deadlines of 0.2 to 30 s, at 70 % and at 130 %", "L2",
        "no run starts after its deadline; wasted runs ≤ 1 %", clients::mixed_deadlines),
    fault!("F29", false, "half the clients hang up at random", "L1",
        "≤ 10 % of the abandoned requests run afterwards", clients::hanging_up),
    fault!("F33", false, "clocks an hour off, a gateway's and a worker's", "L2",
        "all 200; expiry within 100 ms", gateways::wrong_clocks),
    fault!("F34", false, "half the workers get SIGTERM, SIGKILL 15 s later", "L1",
        "all 200", workers::half_leave),
    fault!("F40", true, "a new password of Redis, then the end of the old one", "L1",
        "all 200; no connection denied", operations::password_rotated),
    fault!("F41", true, "Redis out of reach of one gateway, then of all", "-",
        "only the one that is cut off alone becomes unready", operations::readiness),
    fault!("F42", true, "logs whose pipe is closed, and full", "L1",
        "all 200; every program runs on; lost lines are counted", operations::logs_unread),
    fault!("F43", true, "announcements of 3000 models that nothing serves, and their end", "L1",
        "all 200; metrics and memory as before", operations::ghosts),
    fault!("F44", true, "SIGTERM twice, 0 to 300 ms apart", "L2",
        "all 200; every drain ends with status 0", operations::terminated_twice),
    fault!("F45", false, "kill -9 one of three independent Redises every 10 s, back empty after 5 s", "L2",
        "all 200; ran again ≤ in flight there + 1 %; p99 ≤ baseline + 1 s; at the others ≤ 1.2x", shards::killed_in_turn),
    Fault {
        id: "F46",
        what: "from older programs with one Redis to three Redises, and back",
        load: "L2",
        pass: "all 200; no connection refused",
        short: false,
        run: |options| Box::pin(shards::added_and_removed(options.scale, options.previous.clone())),
    },
    fault!("F47", false, "kill -9 one master of a Redis Cluster every 10 s, back empty after 5 s", "L2",
        "as F45, at the partitions of the others", clusters::killed_in_turn),
    fault!("F48", false, "as F47, and a replica takes over; the killed one comes back as the replica", "L2",
        "as F47", clusters::failed_over_in_turn),
    fault!("F49", false, "a slot with all queues, then with half of them, moves to and fro 20 times", "L2",
        "all 200; ran again ≤ 1 %; max ≤ 2 s", clusters::moved),
    Fault {
        id: "F35",
        what: "upgrade from an older version: workers, gateways; workers back and again",
        load: "L2",
        pass: "all 200; no connection refused",
        short: false,
        run: |options| Box::pin(upgrade::two_versions(options.scale, options.previous.clone())),
    },
    fault!("F37", true, "pipelined requests without a reader; heads without an end", "L2",
        "memory ≤ 80 % of 1 GiB, and back ≤ 10 s after; other requests ≥ 99.9 % right", attacks::memory),
    fault!("F38", true, "later heads of a connection sent one byte a second", "L2",
        "slow connections closed ≤ 15 s; other requests ≥ 99.9 % right", attacks::slow_later_heads),
    fault!("F39", true, "more connections than a gateway may open files", "-",
        "new clients and the admin port answered ≤ 3 s; no line about accepting", attacks::open_files),
];
