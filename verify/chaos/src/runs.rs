//! The run log: the echo model of each worker logs the start of every run of a request. The log
//! shows late and repeated runs.

use std::{
    collections::HashMap,
    fs,
    path::Path,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use anyhow::Result;

/// The start times of every run of each request of a load. A request that was delivered again has
/// several runs.
pub(crate) struct Runs {
    starts: HashMap<u64, Vec<SystemTime>>,
}

impl Runs {
    /// Reads the runs of the load with this nonce from the run log in `folder`.
    pub(crate) fn read(folder: &Path, nonce: u128) -> Result<Self> {
        let mut starts = HashMap::<u64, Vec<SystemTime>>::new();
        for file in fs::read_dir(folder)? {
            let log = fs::read(file?.path())?;
            for entry in log.as_chunks::<32>().0 {
                let (began, of, index) = (number(&entry[..8]), &entry[8..24], number(&entry[24..]));
                if of == nonce.to_le_bytes() {
                    let began = UNIX_EPOCH + Duration::from_millis(began);
                    starts.entry(index).or_default().push(began);
                }
            }
        }
        Ok(Self { starts })
    }

    /// The number of runs of a request.
    pub(crate) fn of(&self, index: u64) -> usize {
        self.starts.get(&index).map_or(0, Vec::len)
    }

    /// The start times of the runs of a request.
    pub(crate) fn starts(&self, index: u64) -> impl Iterator<Item = &SystemTime> {
        self.starts.get(&index).into_iter().flatten()
    }

    /// All runs: the number of the request, and the start time.
    pub(crate) fn all(&self) -> impl Iterator<Item = (u64, SystemTime)> {
        let runs = self.starts.iter();
        runs.flat_map(|(index, starts)| starts.iter().map(move |start| (*index, *start)))
    }

    /// All runs but the first of each request.
    pub(crate) fn repeats(&self) -> impl Iterator<Item = (u64, SystemTime)> {
        let first = |index| self.starts.get(&index).and_then(|starts| starts.iter().min().copied());
        let mut seen = std::collections::HashSet::new();
        self.all()
            .filter(move |(index, start)| first(*index) < Some(*start) || !seen.insert(*index))
    }

    /// The number of runs, without the first of each request.
    pub(crate) fn repeated(&self) -> usize {
        self.starts.values().map(|starts| starts.len() - 1).sum()
    }

    /// The number of all runs.
    pub(crate) fn count(&self) -> usize {
        self.starts.values().map(Vec::len).sum()
    }
}

fn number(bytes: &[u8]) -> u64 {
    bytes.iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_runs_of_this_load_count_and_all_but_the_first_are_repeats() {
        let folder = tempfile::TempDir::new().unwrap();
        let entry = |began: u64, nonce: u128, index: u64| {
            [&began.to_le_bytes()[..], &nonce.to_le_bytes(), &index.to_le_bytes()].concat()
        };
        let log = [entry(10, 7, 1), entry(20, 7, 2), entry(30, 8, 1), entry(40, 7, 1)].concat();
        fs::write(folder.path().join("1"), log).unwrap();
        let runs = Runs::read(folder.path(), 7).unwrap();
        assert_eq!((runs.count(), runs.of(1), runs.of(2), runs.of(3)), (3, 2, 1, 0));
        let repeats: Vec<_> = runs.repeats().collect();
        assert_eq!(repeats, [(1, UNIX_EPOCH + Duration::from_millis(40))]);
        assert_eq!(runs.repeated(), 1);
    }
}
