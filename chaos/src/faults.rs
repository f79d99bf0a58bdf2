//! The faults. Each is a function that plays one on a stage and says what was measured.

pub(crate) mod redis;
pub(crate) mod workers;

use crate::stage::{Playing, Scale};

/// A fault as a row of the table.
pub(crate) struct Fault {
    /// As in the fault matrix.
    pub(crate) id: &'static str,
    /// What happens.
    pub(crate) what: &'static str,
    /// Under which load.
    pub(crate) load: &'static str,
    /// What must hold, besides what must always hold.
    pub(crate) pass: &'static str,
    /// Whether it belongs to the short tier.
    pub(crate) short: bool,
    /// Plays it.
    pub(crate) play: fn(Scale) -> Playing,
}

/// A row for a function.
macro_rules! fault {
    ($id:literal, $short:literal, $what:literal, $load:literal, $pass:literal, $play:path) => {
        Fault {
            id: $id,
            what: $what,
            load: $load,
            pass: $pass,
            short: $short,
            play: |scale| Box::pin($play(scale)),
        }
    };
}

/// All faults that one machine can run.
#[rustfmt::skip]
pub(crate) const FAULTS: &[Fault] = &[
    fault!("F01", true, "kill -9 a random worker every 2 s, back 1 s later", "L1",
        "all 200; p99 ≤ baseline + 5 s; max ≤ 12 s", workers::killed_in_turn),
    fault!("F02", false, "kill -9 all workers, back after 10 s", "L1",
        "only 200 and 503 no_workers; every held request done ≤ 15 s after the return", workers::all_killed),
    fault!("F03", true, "SIGSTOP a worker for 20 s in the middle of a batch, SIGCONT", "L1",
        "all 200; its batch runs again ≤ 5 s; its late answers dropped", workers::stopped),
    fault!("F09", true, "rolling restart of all workers by SIGTERM", "L2",
        "all 200; nothing runs twice; p99 ≤ 1.5x", workers::rolling_restart),
    fault!("F14", true, "kill -9 Redis with AOF, back after 2 s, five times", "L1",
        "all 200; answers again ≤ 3 s after it accepts", redis::killed_with_aof),
    fault!("F15", true, "kill -9 Redis, back empty after 2 s", "L1",
        "as F14; no more runs than requests in flight + 1 %", redis::killed_and_empty),
    fault!("F16", true, "FLUSHALL; DEL of the request streams", "L1",
        "all 200; max ≤ 9 s", redis::emptied),
    fault!("F22", true, "reply connections killed every 500 ms", "L2",
        "all 200; p99 ≤ baseline + 1 s", redis::replies_cut),
];
