//! The memory that this process may use before the system ends it.

use std::fs;

/// Files that hold the limit of the container: control groups version 2, then version 1.
const LIMITS: [&str; 2] =
    ["/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"];
const MACHINE: &str = "/proc/meminfo";

/// Returns the limit of the container, or the memory of the machine if that is smaller; 0 if neither
/// is known.
pub(crate) fn limit() -> u64 {
    let limits = LIMITS.map(|file| fs::read_to_string(file).unwrap_or_default());
    smallest(&limits, &fs::read_to_string(MACHINE).unwrap_or_default())
}

fn smallest(limits: &[String], machine: &str) -> u64 {
    let kilobytes =
        machine.lines().find_map(|line| line.strip_prefix("MemTotal:")?.strip_suffix("kB"));
    let machine = kilobytes.and_then(|number| number.trim().parse::<u64>().ok());
    let limits = limits.iter().filter_map(|limit| limit.trim().parse().ok());
    limits.chain(machine.map(|kilobytes| kilobytes * 1024)).min().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_is_that_of_the_container_if_it_has_one() {
        let machine = "MemTotal:       1024 kB\nMemFree:         512 kB\n";
        for (limits, expected) in [
            (["4096\n", ""], 4096),
            (["max\n", ""], 1_048_576),
            (["", "9223372036854771712\n"], 1_048_576),
            (["", "4096\n"], 4096),
            (["", ""], 1_048_576),
        ] {
            assert_eq!(smallest(&limits.map(str::to_owned), machine), expected, "{limits:?}");
        }
        assert_eq!(smallest(&[], ""), 0);
        assert!(limit() > 0);
    }
}
