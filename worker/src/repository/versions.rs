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

/// The versions that `policy` selects, ascending. The error is the first missing version.
pub(super) fn select(mut versions: Vec<u64>, policy: &VersionPolicy) -> Result<Vec<u64>, u64> {
    versions.sort_unstable();
    match policy {
        VersionPolicy::All => Ok(versions),
        VersionPolicy::Latest(count) => {
            Ok(versions.split_off(versions.len().saturating_sub(*count)))
        }
        VersionPolicy::Specific(wanted) => {
            match wanted.iter().find(|version| !versions.contains(version)) {
                Some(&missing) => Err(missing),
                None => Ok(versions.into_iter().filter(|v| wanted.contains(v)).collect()),
            }
        }
    }
}
