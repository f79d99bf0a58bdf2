//! `batchfleet digest`: prints the digests that `--model` and a `ModelFleet` pin models by.

use std::{fmt::Write, path::PathBuf, process::ExitCode};

use batchfleet_service::{InvalidSettings, complain};
use batchfleet_worker::VersionDigest;
use clap::Args;

use crate::tool::say;

/// Settings of `batchfleet digest`.
#[derive(Args, Clone, Debug)]
pub(crate) struct DigestSettings {
    /// A model repository, or the folder of a model or of a version
    folder: PathBuf,
}

/// Prints a line for each version, in the form that `--model` takes. Status 1 if a version has no
/// digest.
pub(crate) fn main(settings: &DigestSettings) -> anyhow::Result<ExitCode> {
    let versions = batchfleet_worker::digests(&settings.folder).map_err(InvalidSettings::new)?;
    if versions.is_empty() {
        let folder = settings.folder.display();
        return Err(InvalidSettings::new(format_args!(
            "no model version in {folder}: expected a repository, or the folder of a model or a \
             version"
        ))
        .into());
    }
    let (mut lines, mut status) = (String::new(), ExitCode::SUCCESS);
    for VersionDigest { queue: version, digest } in versions {
        match digest {
            Ok(digest) => writeln!(lines, "{version}@{digest}")?,
            Err(problem) => {
                complain(&format!("error: model {version}: {problem}"));
                status = ExitCode::FAILURE;
            }
        }
    }
    say(&lines);
    Ok(status)
}
