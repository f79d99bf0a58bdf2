//! What each command costs a Redis, by its own account.

use std::collections::BTreeMap;

use anyhow::Result;
use batchfleet_testkit::RedisServer;

/// How many commands are printed, the dearest first.
const PRINTED: usize = 12;

/// Calls of each command, and the microseconds that Redis spent on them. Reads and writes of sockets
/// belong to no command.
pub(crate) struct Commandstats {
    commands: BTreeMap<String, [f64; 2]>,
    reads: f64,
}

impl Commandstats {
    /// Asks the server.
    pub(crate) async fn read(server: &RedisServer) -> Result<Self> {
        let info = server.ask("INFO commandstats").await?;
        let commands = info.lines().filter_map(|line| {
            let (name, fields) = line.strip_prefix("cmdstat_")?.split_once(':')?;
            Some((name.to_owned(), [field(fields, "calls=")?, field(fields, "usec=")?]))
        });
        let stats = server.ask("INFO stats").await?;
        let reads = stats.lines().find_map(|line| line.strip_prefix("total_reads_processed:"));
        let reads = reads.and_then(|reads| reads.trim().parse().ok()).unwrap_or_default();
        Ok(Self { commands: commands.collect(), reads })
    }

    /// What was added since `before`.
    pub(crate) fn since(mut self, before: &Self) -> Self {
        for (name, now) in &mut self.commands {
            let [calls, micros] = before.commands.get(name).copied().unwrap_or_default();
            *now = [now[0] - calls, now[1] - micros];
        }
        self.reads -= before.reads;
        self
    }

    /// Prints the dearest commands, as rates over `seconds`.
    pub(crate) fn print(&self, seconds: f64) {
        let mut dearest: Vec<_> = self.commands.iter().collect();
        dearest.sort_by(|(_, a), (_, b)| b[1].total_cmp(&a[1]));
        let all: f64 = dearest.iter().map(|(_, [_, micros])| micros).sum();
        let reads = self.reads / seconds;
        println!("  {reads:.0} reads of sockets/s; commands {:.1} %:", all / seconds / 1e4);
        for (name, [calls, micros]) in dearest.into_iter().take(PRINTED) {
            let each = micros / calls.max(1.0);
            let percent = micros / seconds / 1e4;
            println!("  {name}: {:.0}/s, {each:.1} µs each, {percent:.1} %", calls / seconds);
        }
    }
}

fn field(fields: &str, name: &str) -> Option<f64> {
    fields.split(',').find_map(|field| field.strip_prefix(name))?.parse().ok()
}
