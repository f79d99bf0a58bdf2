//! The location of a model repository: a folder, or an object store from which the requested models
//! are fetched before they are loaded.

use std::{
    collections::BTreeSet,
    env, fmt, fs, io,
    path::{Path, PathBuf},
    str::FromStr,
};

use futures_util::TryStreamExt;
use object_store::{GetResultPayload, ObjectStore, ObjectStoreExt, parse_url_opts, path};
use tokio::io::AsyncWriteExt;
use tracing::info;
use url::Url;

use super::{
    error::RepositoryError,
    names::{is_model_name, version_number},
    scan::read_config,
    versions::{select, wanted_versions},
    wanted::Wanted,
};

/// A folder, or a URL of an object store: `s3://`, `gs://`, `az://`, `https://` (`WebDAV`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Location {
    /// A folder on this machine.
    Folder(PathBuf),
    /// A prefix in an object store.
    Store(Url),
}

impl FromStr for Location {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if !text.contains("://") {
            return Ok(Self::Folder(text.into()));
        }
        Url::parse(text).map(Self::Store).map_err(|error| format!("no address: {error}"))
    }
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Folder(folder) => folder.display().fmt(f),
            Self::Store(url) => url.fmt(f),
        }
    }
}

/// How to read an object store.
#[derive(Clone, Debug, Default)]
pub(crate) struct StoreSettings {
    /// The folder for fetched models.
    pub(crate) cache: PathBuf,
    /// A folder with one file per option of the store. These options override the environment.
    pub(crate) options: Option<PathBuf>,
}

impl Location {
    /// Returns the folder with the models. For an object store, this is `settings.cache`, into
    /// which the `wanted` models are fetched.
    pub(crate) async fn fetch(
        &self,
        wanted: &[Wanted],
        settings: &StoreSettings,
    ) -> Result<PathBuf, RepositoryError> {
        match self {
            Self::Folder(folder) => Ok(folder.clone()),
            Self::Store(url) => {
                Remote::open(url, settings)?.fetch(wanted, &settings.cache).await?;
                Ok(settings.cache.clone())
            }
        }
    }
}

/// A repository in an object store.
struct Remote {
    url: Url,
    store: Box<dyn ObjectStore>,
    prefix: path::Path,
}

impl Remote {
    fn open(url: &Url, settings: &StoreSettings) -> Result<Self, RepositoryError> {
        // Fails if the process has already installed a TLS provider, which is then used.
        rustls::crypto::ring::default_provider().install_default().ok();
        // Environment variables that the stores define: `AWS_REGION`, `GOOGLE_SERVICE_ACCOUNT` and
        // so on.
        let mut options: Vec<(String, String)> = env::vars().collect();
        if let Some(folder) = &settings.options {
            options.extend(options_in(folder)?);
        }
        let (store, prefix) = parse_url_opts(url, options).map_err(|error| failed(url, error))?;
        Ok(Self { url: url.clone(), store, prefix })
    }

    /// Fetches the served versions of the `wanted` models into `cache`, and removes older files of
    /// these models.
    async fn fetch(&self, wanted: &[Wanted], cache: &Path) -> Result<(), RepositoryError> {
        let objects: Vec<_> =
            self.store.list(Some(&self.prefix)).try_collect().await.map_err(|e| self.failed(e))?;
        if objects.is_empty() {
            // Object stores report a wrong prefix as an empty folder.
            let (path, source) = (self.prefix.to_string(), "nothing lies below it".into());
            return Err(self.failed(object_store::Error::NotFound { path, source }));
        }
        let files: Vec<Vec<String>> =
            objects.iter().filter_map(|object| self.relative(&object.location)).collect();
        let models: BTreeSet<&String> = files
            .iter()
            .filter_map(|file| file.first().filter(|_| file.len() > 1))
            .filter(|name| is_model_name(name))
            .filter(|name| wanted.is_empty() || wanted.iter().any(|model| model.name == **name))
            .collect();
        for model in models {
            let files: Vec<_> = files.iter().filter(|file| file[0] == *model).collect();
            remove(&cache.join(model))?;
            self.fetch_model(&files, wanted, cache).await?;
        }
        Ok(())
    }

    async fn fetch_model(
        &self,
        files: &[&Vec<String>],
        wanted: &[Wanted],
        cache: &Path,
    ) -> Result<(), RepositoryError> {
        let is_config = |file: &Vec<String>| file.len() == 2 && file[1] == "config.pbtxt";
        for file in files.iter().filter(|file| is_config(file)) {
            self.download(file, cache).await?;
        }
        let Some(model) = files.first().map(|file| &file[0]) else { return Ok(()) };
        // `scan` reports a config that cannot be read.
        let Ok(config) = read_config(&cache.join(model).join("config.pbtxt")) else {
            return Ok(());
        };
        let present: BTreeSet<u64> = files.iter().filter_map(|file| version(file)).collect();
        let has_file = |number| {
            files.iter().any(|file| version(file) == Some(number) && file[2] == config.file)
        };
        let selected = || {
            let selected = select(present.into_iter().collect(), &config.versions, has_file);
            selected.ok().map(|selected| selected.versions)
        };
        let versions = wanted_versions(model, wanted).or_else(selected);
        // If a requested version is missing, fetch all versions: `scan` then reports the missing
        // version.
        let is_needed = |file: &Vec<String>| {
            !is_config(file)
                && version(file).is_none_or(|number| {
                    versions.as_ref().is_none_or(|versions| versions.contains(&number))
                })
        };
        for file in files.iter().filter(|file| is_needed(file)) {
            self.download(file, cache).await?;
        }
        Ok(())
    }

    async fn download(&self, file: &[String], cache: &Path) -> Result<(), RepositoryError> {
        let target = cache.join(file.iter().collect::<PathBuf>());
        let unwritable = |error| RepositoryError::Unwritable { path: target.clone(), error };
        if let Some(folder) = target.parent() {
            fs::create_dir_all(folder).map_err(unwritable)?;
        }
        let location = self.prefix.parts().chain(file.iter().map(|part| part.as_str().into()));
        let found = self.store.get(&location.collect()).await.map_err(|e| self.failed(e))?;
        info!(file = file.join("/"), bytes = found.meta.size, "fetching model file");
        if let GetResultPayload::File(_, source) = &found.payload {
            fs::copy(source, &target).map_err(unwritable)?;
            return Ok(());
        }
        let mut bytes = found.into_stream();
        let mut written = tokio::fs::File::create(&target).await.map_err(unwritable)?;
        while let Some(chunk) = bytes.try_next().await.map_err(|e| self.failed(e))? {
            written.write_all(&chunk).await.map_err(unwritable)?;
        }
        written.flush().await.map_err(unwritable)
    }

    /// The parts of an object's path below the prefix; `None` if the parts are not a valid file
    /// path on this machine.
    fn relative(&self, location: &path::Path) -> Option<Vec<String>> {
        let parts = location.prefix_match(&self.prefix)?;
        let parts: Vec<String> = parts.map(|part| part.as_ref().to_owned()).collect();
        let is_plain = |part: &String| !matches!(part.as_str(), "" | "." | "..");
        parts.iter().all(is_plain).then_some(parts)
    }

    fn failed(&self, error: object_store::Error) -> RepositoryError {
        failed(&self.url, error)
    }
}

fn failed(url: &Url, error: object_store::Error) -> RepositoryError {
    RepositoryError::Store { url: Box::new(url.clone()), error: Box::new(error) }
}

/// The version to which a file belongs; `None` for a file outside the versions' folders.
fn version(file: &[String]) -> Option<u64> {
    (file.len() > 2).then(|| version_number(&file[1])).flatten()
}

/// Reads one option from each file of a folder, as Kubernetes mounts a Secret.
fn options_in(folder: &Path) -> Result<Vec<(String, String)>, RepositoryError> {
    let unreadable = |error| RepositoryError::Unreadable { path: folder.to_owned(), error };
    let mut options = Vec::new();
    for entry in fs::read_dir(folder).map_err(unreadable)? {
        let path = entry.map_err(unreadable)?.path();
        let name = path.file_name().and_then(|name| name.to_str()).map(str::to_owned);
        if let Some(name) = name.filter(|name| !name.starts_with('.') && path.is_file()) {
            let value = fs::read_to_string(&path).map_err(unreadable)?;
            options.push((name, value.trim_end().to_owned()));
        }
    }
    Ok(options)
}

fn remove(folder: &Path) -> Result<(), RepositoryError> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(RepositoryError::Unwritable { path: folder.to_owned(), error })
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests;
