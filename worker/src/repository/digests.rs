//! The digests of the models in a folder, for `batchfleet digest`.

use std::path::{Path, PathBuf};

use batchfleet_broker::QueueName;

use super::{
    error::RepositoryError,
    files,
    identity::Digest,
    names::{is_model_name, version_number},
    scan::{folders, read_config},
};
use crate::config::Backend;

/// A model version and its digest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VersionDigest {
    /// Name and version.
    pub queue: QueueName,
    /// The digest, or the reason why the version has none.
    pub digest: Result<Digest, String>,
}

/// Computes the digest of each model version in `folder`, which is a repository, or the folder of a
/// model or of a version. Sorted by name, then version.
///
/// # Errors
///
/// The folder cannot be read.
pub fn digests(folder: &Path) -> Result<Vec<VersionDigest>, RepositoryError> {
    let unreadable = |error| RepositoryError::Unreadable { path: folder.to_owned(), error };
    // A relative path such as `.` does not contain the names of model and version.
    let folder = folder.canonicalize().map_err(unreadable)?;
    let mut found = Vec::new();
    for (model, version) in versions(&folder)? {
        let name =
            |path: &Path| path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let queue = QueueName::new(name(&model), version);
        if let Some(digest) = digest(&model, version) {
            found.push(VersionDigest { queue, digest });
        }
    }
    found.sort_by(|a, b| a.queue.cmp(&b.queue));
    Ok(found)
}

/// The folder and the number of each version.
fn versions(folder: &Path) -> Result<Vec<(PathBuf, u64)>, RepositoryError> {
    let name = folder.file_name().and_then(|name| name.to_str());
    if let (Some(version), Some(model)) = (name.and_then(version_number), folder.parent()) {
        let config = read_config(&model.join("config.pbtxt")).unwrap_or_default();
        if files::find(folder, &config.file).is_some() {
            return Ok(vec![(model.to_owned(), version)]);
        }
    }
    let numbers = |model: &Path| -> Result<Vec<(PathBuf, u64)>, RepositoryError> {
        let numbers = folders(model)?.into_iter().filter_map(|name| version_number(&name));
        Ok(numbers.map(|version| (model.to_owned(), version)).collect())
    };
    let mut found = numbers(folder)?;
    if found.is_empty() {
        for model in folders(folder)?.iter().filter(|name| is_model_name(name)) {
            found.extend(numbers(&folder.join(model))?);
        }
    }
    Ok(found)
}

/// The digest of a version; `None` if no file runs the model.
fn digest(model: &Path, version: u64) -> Option<Result<Digest, String>> {
    let config = match read_config(&model.join("config.pbtxt")) {
        Ok(config) if config.backend == Backend::Echo => return None,
        Ok(config) => config,
        Err(error) => return Some(Err(error.to_string())),
    };
    let folder = model.join(version.to_string());
    let missing = || super::advice::on_no_file(&folder, &config.file);
    Some(
        files::find(&folder, &config.file)
            .ok_or_else(missing)
            .and_then(|file| files::digest(&file)),
    )
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::repository::{external::example, scan};

    #[test]
    fn the_digests_of_a_folder_are_those_that_pin_its_models() {
        let root = tempfile::tempdir().unwrap();
        let write = |path: &str, content: &[u8]| {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, content).unwrap();
        };
        write("a/1/model.onnx", &example(&[]));
        write("a/2/model.onnx/model.onnx", &example(&["w.bin"]));
        write("a/2/model.onnx/w.bin", b"12345678");
        write("b/config.pbtxt", b"default_model_filename: \"net.onnx\"");
        write("b/1/net.onnx", &example(&[]));
        write("echo/config.pbtxt", b"backend: \"batchfleet_echo\"");
        write("echo/1/.keep", b"");
        let names = |path: &str| -> Vec<String> {
            let found = digests(&root.path().join(path)).unwrap();
            found.iter().map(|found| found.queue.to_string()).collect()
        };
        assert_eq!(names(""), ["a:1", "a:2", "b:1"]);
        assert_eq!(names("a"), ["a:1", "a:2"]);
        assert_eq!(names("a/2"), ["a:2"]);
        for VersionDigest { queue, digest } in digests(root.path()).unwrap() {
            let wanted = format!("{queue}@{}", digest.unwrap()).parse().unwrap();
            let found = scan(root.path(), &[wanted]).unwrap();
            assert!(found.sources[0].read().is_ok(), "{queue}");
        }
        write("a/3/other.onnx", b"");
        let missing = digests(&root.path().join("a/3")).unwrap();
        assert!(missing.is_empty(), "{missing:?}");
        let missing = digests(&root.path().join("a")).unwrap().remove(2);
        assert_eq!(missing.queue, QueueName::new("a", 3));
        assert!(missing.digest.unwrap_err().contains("but there is other.onnx"));
        assert!(digests(&root.path().join("none")).is_err());
    }
}
