//! Selects the versions of a model to serve. Pure.

use super::wanted::Wanted;
use crate::config::VersionPolicy;

/// The versions of a model that are requested by number; `None` leaves the choice to its version
/// policy.
pub(super) fn wanted_versions(model: &str, wanted: &[Wanted]) -> Option<Vec<u64>> {
    let of_model = wanted.iter().filter(|wanted| wanted.name == model);
    let versions: Option<Vec<u64>> = of_model.map(|wanted| wanted.version).collect();
    versions.filter(|versions| !versions.is_empty())
}

/// The versions to serve.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Selection {
    /// Ascending.
    pub(super) versions: Vec<u64>,
    /// Newer versions without their file, which older versions replace.
    pub(super) incomplete: Vec<u64>,
}

/// The versions that `policy` selects. A version without its file is probably still being copied,
/// so the policy `latest` prefers older versions that have theirs. The error is the first missing
/// version.
pub(super) fn select(
    mut versions: Vec<u64>,
    policy: &VersionPolicy,
    has_file: impl Fn(u64) -> bool,
) -> Result<Selection, u64> {
    versions.sort_unstable();
    let all = |versions| Ok(Selection { versions, incomplete: Vec::new() });
    match policy {
        VersionPolicy::All => all(versions),
        VersionPolicy::Latest(count) => {
            let complete: Vec<u64> = versions.iter().copied().filter(|&v| has_file(v)).collect();
            let latest = |of: &[u64]| of[of.len().saturating_sub(*count)..].to_vec();
            let Some(&oldest) = latest(&complete).first() else { return all(latest(&versions)) };
            let is_skipped = |version: &u64| *version > oldest && !complete.contains(version);
            let incomplete = versions.into_iter().filter(is_skipped).collect();
            Ok(Selection { versions: latest(&complete), incomplete })
        }
        VersionPolicy::Specific(wanted) => {
            match wanted.iter().find(|version| !versions.contains(version)) {
                Some(&missing) => Err(missing),
                None => all(versions.into_iter().filter(|v| wanted.contains(v)).collect()),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_latest_versions_are_those_that_have_their_file() {
        for (count, complete, versions, incomplete) in [
            (1, &[1, 2, 3][..], &[3][..], &[][..]),
            (1, &[1, 2], &[2], &[3]),
            (2, &[1, 3], &[1, 3], &[2]),
            (2, &[2], &[2], &[3]),
            (1, &[1], &[1], &[2, 3]),
            (1, &[], &[3], &[]),
            (5, &[1, 2, 3], &[1, 2, 3], &[]),
        ] {
            let has_file = |version| complete.contains(&version);
            let selected = select(vec![3, 1, 2], &VersionPolicy::Latest(count), has_file);
            let expected =
                Selection { versions: versions.to_vec(), incomplete: incomplete.to_vec() };
            assert_eq!(selected, Ok(expected), "{count} of {complete:?}");
        }
    }

    #[test]
    fn versions_that_are_named_are_selected_with_or_without_their_file() {
        let named = |versions: &[u64]| {
            select(vec![1, 2], &VersionPolicy::Specific(versions.to_vec()), |_| false)
        };
        assert_eq!(named(&[2, 1]).unwrap().versions, [1, 2]);
        assert_eq!(named(&[1, 3]), Err(3));
    }
}
