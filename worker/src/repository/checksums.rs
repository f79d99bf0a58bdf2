//! Triton's checksum agent (`model_repository_agents` in a config): MD5 sums that the files of a
//! model must have.

use std::path::{Path, PathBuf};

use md5::{Digest, Md5};

use super::identity::each_piece;
use crate::config::Agent;

/// The name of the only agent.
const CHECKSUM: &str = "checksum";

/// The only algorithm of the agent, as a prefix of the file's name.
const ALGORITHM: &str = "MD5:";

/// Compares files with the sums of the agents. A file is relative to the first of `folders` that
/// contains it.
pub(super) fn verify(agents: &[Agent], folders: &[PathBuf]) -> Result<(), String> {
    for Agent { name, parameters } in agents {
        if name != CHECKSUM {
            return Err(format!(
                "its model_repository_agents in config.pbtxt name the agent {name:?}: only \
                 {CHECKSUM:?} is supported"
            ));
        }
        for (key, sum) in parameters {
            let file = key.strip_prefix(ALGORITHM).ok_or_else(|| {
                format!(
                    "its checksum agent in config.pbtxt has the parameter {key:?}: expected \
                     {ALGORITHM} and a file"
                )
            })?;
            check(file, sum, folders)?;
        }
    }
    Ok(())
}

fn check(file: &str, expected: &str, folders: &[PathBuf]) -> Result<(), String> {
    let path = folders.iter().map(|folder| folder.join(file)).find(|path| path.is_file());
    let path: &Path = path.as_deref().ok_or_else(|| {
        format!("its checksum agent in config.pbtxt has a sum for {file:?}, which is missing")
    })?;
    let mut hasher = Md5::new();
    each_piece(path, |piece| hasher.update(piece))
        .map_err(|error| format!("cannot read {}: {error}", path.display()))?;
    let found = hex::encode(hasher.finalize());
    if found.eq_ignore_ascii_case(expected) {
        return Ok(());
    }
    Err(format!(
        "{} has the MD5 sum {found}, but its checksum agent in config.pbtxt requires {expected}",
        path.display()
    ))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    /// The MD5 sum of "abc", from RFC 1321.
    const ABC: &str = "900150983cd24fb0d6963f7d28e17f72";

    fn agent(name: &str, key: &str, sum: &str) -> Agent {
        let parameters = [(key.to_owned(), sum.to_owned())].into();
        Agent { name: name.to_owned(), parameters }
    }

    #[test]
    fn files_in_the_folder_of_the_model_or_the_version_are_compared() {
        let root = tempfile::tempdir().unwrap();
        let folders = [root.path().to_owned(), root.path().join("1")];
        fs::create_dir(&folders[1]).unwrap();
        fs::write(root.path().join("labels.txt"), "abc").unwrap();
        fs::write(folders[1].join("model.onnx"), "abc").unwrap();
        let check = |file: &str, sum: &str| {
            verify(&[agent("checksum", &format!("MD5:{file}"), sum)], &folders)
        };
        for file in ["labels.txt", "1/model.onnx", "model.onnx"] {
            assert_eq!(check(file, ABC), Ok(()), "{file}");
            assert_eq!(check(file, &ABC.to_uppercase()), Ok(()), "{file}");
            let error = check(file, "00").unwrap_err();
            assert!(error.contains(&format!("has the MD5 sum {ABC}, but")), "{error}");
        }
        assert!(check("none", ABC).unwrap_err().ends_with("for \"none\", which is missing"));
    }

    #[test]
    fn other_agents_and_algorithms_are_refused_by_name() {
        for (name, key, complaint) in [
            ("decrypt", "MD5:a", "name the agent \"decrypt\": only \"checksum\" is supported"),
            ("checksum", "SHA256:a", "has the parameter \"SHA256:a\": expected MD5: and a file"),
        ] {
            let error = verify(&[agent(name, key, ABC)], &[]).unwrap_err();
            assert!(error.contains(complaint), "{error}");
        }
    }
}
