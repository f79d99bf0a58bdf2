//! Finds the models of a repository folder.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use batchfleet_broker::QueueName;

use super::{
    error::RepositoryError,
    names::{is_model_name, version_number},
    versions::{select, wanted_versions},
    wanted::{Digest, Wanted},
};
use crate::config::{Backend, ModelConfig, VersionPolicy};

/// One version of a model, found but not loaded.
#[derive(Clone, Debug)]
pub(crate) struct ModelSource {
    /// The model's name and version.
    pub(crate) queue: QueueName,
    /// The model's file, which need not exist for an echo.
    pub(crate) file: PathBuf,
    /// How to serve the model.
    pub(crate) config: Arc<ModelConfig>,
}

impl ModelSource {
    /// An error about this model.
    pub(crate) fn contradiction(&self, problem: impl Into<String>) -> RepositoryError {
        RepositoryError::Contradiction { model: self.queue.to_string(), problem: problem.into() }
    }
}

/// Finds the `wanted` models, or all models if `wanted` is empty. Returns the requested versions of
/// each model, or else the versions that its version policy selects, sorted by name, then version.
pub(crate) fn scan(root: &Path, wanted: &[Wanted]) -> Result<Vec<ModelSource>, RepositoryError> {
    let mut present: Vec<String> =
        folders(root)?.into_iter().filter(|name| is_model_name(name)).collect();
    present.sort();
    if let Some(missing) = wanted.iter().find(|model| !present.contains(&model.name)) {
        return Err(RepositoryError::UnknownModel {
            model: missing.name.clone(),
            repository: root.to_owned(),
            present: present.join(", "),
        });
    }
    let is_wanted = |name: &String| wanted.iter().any(|model| model.name == *name);
    let mut sources = Vec::new();
    for model in present.iter().filter(|name| wanted.is_empty() || is_wanted(name)) {
        sources.extend(versions_of(root, model, wanted_versions(model, wanted))?);
    }
    for model in wanted {
        check_digest(model, &sources)?;
    }
    if sources.is_empty() { Err(RepositoryError::Empty(root.to_owned())) } else { Ok(sources) }
}

/// Rejects a model file that does not have the requested digest.
fn check_digest(model: &Wanted, sources: &[ModelSource]) -> Result<(), RepositoryError> {
    let Some(wanted) = model.digest else { return Ok(()) };
    let is_meant = |source: &&ModelSource| {
        source.queue.model == model.name && Some(source.queue.version) == model.version
    };
    for ModelSource { file: path, .. } in sources.iter().filter(is_meant) {
        let found = Digest::of_file(path)
            .map_err(|error| RepositoryError::Unreadable { path: path.clone(), error })?;
        if found != wanted {
            return Err(RepositoryError::Digest { path: path.clone(), wanted, found });
        }
    }
    Ok(())
}

fn versions_of(
    root: &Path,
    model: &str,
    wanted: Option<Vec<u64>>,
) -> Result<Vec<ModelSource>, RepositoryError> {
    let folder = root.join(model);
    let contradiction =
        |problem| RepositoryError::Contradiction { model: model.to_owned(), problem };
    let config = Arc::new(read_config(&folder.join("config.pbtxt"))?);
    if let Some(name) = config.name.as_ref().filter(|name| *name != model && !name.is_empty()) {
        return Err(contradiction(format!("its config.pbtxt names it {name:?}")));
    }
    let mut versions: Vec<u64> =
        folders(&folder)?.iter().filter_map(|name| version_number(name)).collect();
    if versions.is_empty() && config.backend == Backend::Echo {
        versions.push(1);
    }
    let (policy, asks) = match wanted {
        Some(wanted) => (VersionPolicy::Specific(wanted), "--model"),
        None => (config.versions.clone(), "its version_policy"),
    };
    let versions = select(versions, &policy).map_err(|version| {
        contradiction(format!("{asks} asks for version {version}, which is not there"))
    })?;
    if versions.is_empty() {
        return Err(contradiction("it has no version: expected a folder such as 1".to_owned()));
    }
    let source = |version: u64| {
        let file = folder.join(version.to_string()).join(&config.file);
        if config.backend == Backend::OnnxRuntime && !file.is_file() {
            return Err(contradiction(format!("there is no file {}", file.display())));
        }
        Ok(ModelSource { queue: QueueName::new(model, version), file, config: config.clone() })
    };
    versions.into_iter().map(source).collect()
}

/// The config of a model; the default if the file does not exist.
pub(super) fn read_config(path: &Path) -> Result<ModelConfig, RepositoryError> {
    match fs::read_to_string(path) {
        Ok(text) => ModelConfig::parse(&text)
            .map_err(|error| RepositoryError::Config { path: path.to_owned(), error }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(ModelConfig::default()),
        Err(error) => Err(RepositoryError::Unreadable { path: path.to_owned(), error }),
    }
}

/// The names of the folders in a folder, symbolic links followed.
fn folders(path: &Path) -> Result<Vec<String>, RepositoryError> {
    let unreadable = |error| RepositoryError::Unreadable { path: path.to_owned(), error };
    let mut names = Vec::new();
    for entry in fs::read_dir(path).map_err(unreadable)? {
        let entry = entry.map_err(unreadable)?;
        if entry.path().is_dir() {
            names.extend(entry.file_name().into_string());
        }
    }
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A repository with these files.
    fn repository(files: &[(&str, &str)]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for (path, content) in files {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, content).unwrap();
        }
        root
    }

    fn names(root: &Path, wanted: &[&str]) -> Vec<String> {
        let wanted: Vec<Wanted> = wanted.iter().map(|model| model.parse().unwrap()).collect();
        scan(root, &wanted).unwrap().iter().map(|source| source.queue.to_string()).collect()
    }

    const TWO_MODELS: [(&str, &str); 6] = [
        ("digits/1/model.onnx", ""),
        ("digits/10/model.onnx", ""),
        ("digits/2/model.onnx", ""),
        ("magika/1/model.onnx", ""),
        (".cache/1/model.onnx", ""),
        ("README.md", ""),
    ];

    #[test]
    fn serves_the_latest_version_of_every_model() {
        let root = repository(&TWO_MODELS);
        assert_eq!(names(root.path(), &[]), ["digits:10", "magika:1"]);
        assert_eq!(names(root.path(), &["magika"]), ["magika:1"]);
    }

    #[test]
    fn serves_the_versions_a_policy_names() {
        for (policy, expected) in [
            ("all {}", vec!["digits:1", "digits:2", "digits:10"]),
            ("latest { num_versions: 2 }", vec!["digits:2", "digits:10"]),
            ("specific { versions: [2, 1] }", vec!["digits:1", "digits:2"]),
        ] {
            let root = repository(&TWO_MODELS);
            let config = format!("version_policy: {{ {policy} }}");
            fs::write(root.path().join("digits/config.pbtxt"), config).unwrap();
            assert_eq!(names(root.path(), &["digits"]), expected, "{policy}");
        }
    }

    #[test]
    fn serves_the_versions_that_are_asked_for_whatever_the_policy() {
        let root = repository(&TWO_MODELS);
        assert_eq!(names(root.path(), &["digits:2"]), ["digits:2"]);
        assert_eq!(names(root.path(), &["digits:10", "digits:1"]), ["digits:1", "digits:10"]);
        let third = scan(root.path(), &["digits:3".parse().unwrap()]).unwrap_err().to_string();
        assert_eq!(third, "model digits: --model asks for version 3, which is not there");
    }

    #[test]
    fn serves_no_other_file_than_the_one_with_the_digest() {
        let root = repository(&TWO_MODELS);
        let of_nothing = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        let wanted = [format!("digits:2@sha256:{of_nothing}").parse().unwrap()];
        assert_eq!(scan(root.path(), &wanted).unwrap().len(), 1);
        fs::write(root.path().join("digits/2/model.onnx"), "another").unwrap();
        let error = scan(root.path(), &wanted).unwrap_err().to_string();
        assert!(error.contains("has the digest sha256:"), "{error}");
    }

    #[test]
    fn an_echo_needs_no_version_folder() {
        let root = repository(&[("echo/config.pbtxt", "backend: \"batchfleet_echo\"")]);
        assert_eq!(names(root.path(), &[]), ["echo:1"]);
    }

    #[test]
    fn says_what_is_wrong_with_a_repository() {
        let root = repository(&TWO_MODELS);
        fs::write(root.path().join("magika/config.pbtxt"), "name: \"magic\"").unwrap();
        let complaint = |wanted: &str| scan(root.path(), &[wanted.parse().unwrap()]).unwrap_err();
        assert_eq!(
            complaint("magika").to_string(),
            "model magika: its config.pbtxt names it \"magic\""
        );
        assert!(complaint("cats").to_string().ends_with("there is: digits, magika"));
        fs::write(root.path().join("magika/config.pbtxt"), "\n\nmax_batch_size 1").unwrap();
        assert!(complaint("magika").to_string().contains("config.pbtxt, line 3: expected ':'"));
    }

    #[test]
    fn an_empty_or_missing_repository_is_refused() {
        let root = repository(&[("README.md", "")]);
        assert!(matches!(scan(root.path(), &[]), Err(RepositoryError::Empty(_))));
        let missing = scan(&root.path().join("no"), &[]);
        assert!(matches!(missing, Err(RepositoryError::Unreadable { .. })));
    }
}
