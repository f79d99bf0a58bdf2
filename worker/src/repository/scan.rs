//! Finds the models of a repository folder.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use batchfleet_broker::QueueName;
use tracing::warn;

use super::{
    advice, checksums,
    error::RepositoryError,
    files::{self, ModelBytes, ModelFiles},
    identity::Digest,
    names::{MODEL_NAME, is_model_name, version_number},
    versions::{select, wanted_versions},
    wanted::Wanted,
};
use crate::config::{Backend, ModelConfig, VersionPolicy};

/// One version of a model, found but not loaded.
#[derive(Clone, Debug)]
pub(crate) struct ModelSource {
    /// The model's name and version.
    pub(crate) queue: QueueName,
    /// The model's folder.
    pub(crate) folder: PathBuf,
    /// The model's file, which need not exist for an echo.
    pub(crate) file: PathBuf,
    /// The digest that the model must have.
    pub(crate) digest: Option<Digest>,
    /// How to serve the model.
    pub(crate) config: Arc<ModelConfig>,
}

/// A model of the repository that cannot be served, with the version if only that cannot.
#[derive(Debug)]
pub(crate) struct BadModel {
    pub(crate) name: String,
    pub(crate) version: Option<u64>,
    pub(crate) error: RepositoryError,
}

/// The models of a repository.
#[derive(Debug, Default)]
pub(crate) struct Scan {
    /// Sorted by name, then version.
    pub(crate) sources: Vec<ModelSource>,
    pub(crate) bad: Vec<BadModel>,
}

impl ModelSource {
    /// An error about this model.
    pub(crate) fn contradiction(&self, problem: impl Into<String>) -> RepositoryError {
        RepositoryError::Contradiction { model: self.queue.to_string(), problem: problem.into() }
    }

    /// The folders of the version and of the model.
    pub(crate) fn folders(&self) -> [PathBuf; 2] {
        [self.folder.join(self.queue.version.to_string()), self.folder.clone()]
    }

    /// Reads the model's files. If a digest is required, exactly the bytes that are returned have
    /// it. Also compares the files with the checksums in the config.
    pub(crate) fn read(&self) -> Result<ModelBytes, RepositoryError> {
        let problem = |problem| self.contradiction(problem);
        let agents = self.config.message.model_repository_agents.as_ref();
        let agents = agents.map_or(&[][..], |agents| &agents.agents);
        let [version, model] = self.folders();
        checksums::verify(agents, &[model, version]).map_err(problem)?;
        let files = ModelFiles::read(&self.file).map_err(problem)?;
        if let Some(wanted) = self.digest {
            let found = files.digest();
            if found != wanted {
                return Err(RepositoryError::Digest { model: self.queue.clone(), wanted, found });
            }
        }
        files.into_bytes().map_err(problem)
    }
}

/// Finds the `wanted` models, or all models if `wanted` is empty: the requested versions of each
/// model, or else the versions that its version policy selects.
pub(crate) fn scan(root: &Path, wanted: &[Wanted]) -> Result<Scan, RepositoryError> {
    let (mut present, left_out): (Vec<String>, Vec<String>) =
        folders(root)?.into_iter().partition(|name| is_model_name(name));
    present.sort();
    if let Some(missing) = wanted.iter().find(|model| !present.contains(&model.name)) {
        return Err(RepositoryError::UnknownModel {
            model: missing.name.clone(),
            repository: root.to_owned(),
            present: present.join(", "),
        });
    }
    if wanted.is_empty() {
        if let Some(advice) = advice::on_root(root, &present) {
            return Err(RepositoryError::WrongRoot { path: root.to_owned(), advice });
        }
        for name in left_out.iter().filter(|name| !name.starts_with('.')) {
            warn!(name, "left a folder out: the name of a model has {MODEL_NAME}");
        }
    }
    let is_wanted = |name: &String| wanted.iter().any(|model| model.name == *name);
    let mut scan = Scan::default();
    for model in present.iter().filter(|name| wanted.is_empty() || is_wanted(name)) {
        if let Err(error) = add_model(&mut scan, root, model, wanted) {
            scan.bad.push(BadModel { name: model.clone(), version: None, error });
        }
    }
    if scan.sources.is_empty() && scan.bad.is_empty() {
        return Err(RepositoryError::Empty {
            path: root.to_owned(),
            advice: advice::on_names(&left_out),
        });
    }
    Ok(scan)
}

/// The names of the models in a repository folder, in any order.
pub(crate) fn model_names(root: &Path) -> Result<Vec<String>, RepositoryError> {
    Ok(folders(root)?.into_iter().filter(|name| is_model_name(name)).collect())
}

/// Adds the versions of a model.
fn add_model(
    scan: &mut Scan,
    root: &Path,
    model: &str,
    wanted: &[Wanted],
) -> Result<(), RepositoryError> {
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
    let find = |version: u64| files::find(&folder.join(version.to_string()), &config.file);
    let has_file = |version| {
        let file = find(version).and_then(|file| fs::metadata(file).ok());
        config.backend == Backend::Echo || file.is_some_and(|file| file.len() > 0)
    };
    let (policy, asks) = match wanted_versions(model, wanted) {
        Some(wanted) => (VersionPolicy::Specific(wanted), "--model"),
        None => (config.versions.clone(), "its version_policy"),
    };
    let selected = select(versions, &policy, has_file).map_err(|version| {
        contradiction(format!("{asks} asks for version {version}, which is not there"))
    })?;
    if selected.versions.is_empty() {
        return Err(contradiction(advice::on_no_version(&folder, &config.file)));
    }
    for version in selected.incomplete {
        let file = &config.file;
        warn!(model, version, "an older version is served, because the newest has no {file} yet");
    }
    for version in selected.versions {
        let queue = QueueName::new(model, version);
        let version_folder = folder.join(version.to_string());
        let digest = wanted.iter().find(|wanted| wanted.is(&queue)).and_then(|model| model.digest);
        match find(version) {
            None if config.backend == Backend::OnnxRuntime => {
                let problem = advice::on_no_file(&version_folder, &config.file);
                let error = RepositoryError::Contradiction { model: queue.to_string(), problem };
                scan.bad.push(BadModel { name: queue.model, version: Some(version), error });
            }
            file => scan.sources.push(ModelSource {
                folder: folder.clone(),
                file: file.unwrap_or_else(|| version_folder.join(&config.file)),
                queue,
                digest,
                config: config.clone(),
            }),
        }
    }
    Ok(())
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
pub(super) fn folders(path: &Path) -> Result<Vec<String>, RepositoryError> {
    let unreadable = |error| RepositoryError::Unreadable { path: path.to_owned(), error };
    let mut names = Vec::new();
    for entry in fs::read_dir(path).map_err(unreadable)? {
        let entry = entry.map_err(unreadable)?;
        if entry.path().is_dir() {
            names.push(entry.file_name().to_string_lossy().into_owned());
        }
    }
    Ok(names)
}

/// The repository and the name of the model if `folder` is the folder of a model, which has a config
/// or versions.
pub(crate) fn of_model(folder: &Path) -> Option<(PathBuf, String)> {
    let folder = folder.canonicalize().ok()?;
    let is_version = |name: &String| version_number(name).is_some();
    let has_versions = || folders(&folder).is_ok_and(|names| names.iter().any(is_version));
    if !folder.join("config.pbtxt").is_file() && !has_versions() {
        return None;
    }
    let name = folder.file_name()?.to_str()?.to_owned();
    Some((folder.parent()?.to_owned(), name))
}

#[cfg(test)]
mod tests;
