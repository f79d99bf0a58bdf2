//! The files of a model version: the model's file, and the files with its external data.
//!
//! A worker reads all of them before ONNX Runtime gets them. ONNX Runtime itself would map files
//! with external data into memory, so that a file which is overwritten would change the answers of a
//! running worker, and a file which is cut short would kill it.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, File},
    io::{self, Read},
    iter,
    path::{Component, Path, PathBuf},
    sync::Arc,
};

use super::{
    external::{ExternalTensor, embed, external_tensors},
    identity::{Digest, Manifest},
};

/// The first bytes of the text that Git LFS stores in place of a file.
const LFS_POINTER: &[u8] = b"version https://git-lfs.github.com/";

/// The first bytes of a ZIP archive.
const ZIP: &[u8] = b"PK\x03\x04";

/// Everything that a session is made of.
#[derive(Debug)]
pub(crate) struct ModelBytes {
    /// The model.
    pub(crate) model: Vec<u8>,
    /// The files with the data of its initializers, by the name that the model uses.
    pub(crate) external: Vec<(String, Arc<[u8]>)>,
    /// Whether a session can use the data where they are, without a copy.
    pub(crate) in_place: bool,
}

/// The files of a model, read into memory.
#[derive(Debug)]
pub(super) struct ModelFiles {
    graph: Graph,
    /// The files with external data, by name.
    data: BTreeMap<String, Arc<[u8]>>,
}

/// A model's file, and the tensors that are in other files.
#[derive(Debug)]
struct Graph {
    path: PathBuf,
    model: Vec<u8>,
    /// The tensors, with the names of their files.
    tensors: Vec<(ExternalTensor, String)>,
}

/// Finds a model's file: `name` in the version's folder, or in a folder called `name`, which is
/// Triton's layout of a model with external data.
pub(super) fn find(folder: &Path, name: &str) -> Option<PathBuf> {
    let file = folder.join(name);
    let inner = [file.join(name), file.join("model.onnx")];
    iter::once(file).chain(inner).find(|path| path.is_file())
}

/// Computes the identity of a model without loading it.
pub(super) fn digest(path: &Path) -> Result<Digest, String> {
    let graph = Graph::read(path)?;
    let mut manifest = graph.manifest();
    for name in graph.files() {
        let file = graph.locate(name)?;
        manifest.add(name, Digest::of_file(&file).map_err(|error| unreadable(&file, &error))?);
    }
    Ok(manifest.digest())
}

impl ModelFiles {
    /// Reads the model in `path`.
    pub(super) fn read(path: &Path) -> Result<Self, String> {
        let graph = Graph::read(path)?;
        let mut data = BTreeMap::new();
        for name in graph.files() {
            let file = graph.locate(name)?;
            let bytes = read_shared(&file).map_err(|error| unreadable(&file, &error))?;
            if bytes.starts_with(LFS_POINTER) {
                return Err(lfs_pointer(&file));
            }
            data.insert(name.to_owned(), bytes);
        }
        let files = Self { graph, data };
        files.check_sizes()?;
        Ok(files)
    }

    /// The identity of the model.
    pub(super) fn digest(&self) -> Digest {
        let mut manifest = self.graph.manifest();
        for (name, bytes) in &self.data {
            manifest.add(name, Digest::of(bytes));
        }
        manifest.digest()
    }

    /// The bytes for a session.
    pub(super) fn into_bytes(self) -> Result<ModelBytes, String> {
        let Self { graph: Graph { path, model, tensors }, data } = self;
        let file_of = |location: &str| data.get(&plain_name(location)?);
        let embedded = embed(&model, &|tensor| {
            let bytes = file_of(&tensor.location)?;
            bytes.get(range(tensor, bytes.len())?)
        });
        let embedded = embedded.map_err(|_| no_model(&path))?;
        let is_initializer = |(tensor, _): &&(ExternalTensor, String)| tensor.is_initializer;
        let external: BTreeMap<String, Arc<[u8]>> = tensors
            .iter()
            .filter(is_initializer)
            .filter_map(|(tensor, name)| Some((tensor.location.clone(), data.get(name)?.clone())))
            .collect();
        Ok(ModelBytes {
            model: embedded.unwrap_or(model),
            external: external.into_iter().collect(),
            in_place: tensors.iter().all(|(tensor, _)| tensor.is_aligned),
        })
    }

    /// Rejects files that end before a tensor does.
    fn check_sizes(&self) -> Result<(), String> {
        for (tensor, name) in &self.graph.tensors {
            let size = self.data.get(name).map_or(0, |bytes| bytes.len());
            if range(tensor, size).is_none() {
                let end = tensor.offset.saturating_add(tensor.length.unwrap_or_default());
                return Err(format!(
                    "its data file {name} has {size} bytes, but the model needs {end}: the file is \
                     not complete"
                ));
            }
        }
        Ok(())
    }
}

impl Graph {
    fn read(path: &Path) -> Result<Self, String> {
        let model = fs::read(path).map_err(|error| unreadable(path, &error))?;
        if model.is_empty() {
            return Err(format!("{} is empty", path.display()));
        }
        if model.starts_with(LFS_POINTER) {
            return Err(lfs_pointer(path));
        }
        if model.starts_with(ZIP) {
            return Err(format!(
                "{} is a ZIP archive, such as PyTorch saves, and not an ONNX model: export the model \
                 to ONNX",
                path.display()
            ));
        }
        let mut tensors = Vec::new();
        for tensor in external_tensors(&model).map_err(|_| no_model(path))? {
            let name = plain_name(&tensor.location).ok_or_else(|| {
                format!(
                    "its external data is in {:?}: only files in the folder of the model's file are \
                     read",
                    tensor.location
                )
            })?;
            tensors.push((tensor, name));
        }
        Ok(Self { path: path.to_owned(), model, tensors })
    }

    /// The names of the files with external data, each once.
    fn files(&self) -> BTreeSet<&str> {
        self.tensors.iter().map(|(_, name)| name.as_str()).collect()
    }

    /// The manifest with the model's file only.
    fn manifest(&self) -> Manifest {
        let name = self.path.file_name().unwrap_or_default();
        let mut manifest = Manifest::default();
        manifest.add(&name.to_string_lossy(), Digest::of(&self.model));
        manifest
    }

    /// The path of a file with external data. A link is followed only within the folder of the
    /// model's file, or of the file that the model's file is a link to: a downloaded model must not
    /// read other files of this machine.
    fn locate(&self, name: &str) -> Result<PathBuf, String> {
        let folder = self.path.parent().unwrap_or(Path::new("."));
        let file = folder.join(name);
        let real = |path: &Path| path.canonicalize().map_err(|error| unreadable(path, &error));
        let target = real(&file)?;
        let linked = real(&self.path)?;
        let homes = [Some(real(folder)?), linked.parent().map(Path::to_owned)];
        if homes.iter().flatten().any(|home| target.starts_with(home)) {
            return Ok(file);
        }
        Err(format!(
            "its data file {name} is a link to {}, outside the folder of the model's file: move the \
             file into the folder, or make the whole folder a link",
            target.display()
        ))
    }
}

/// The name of a file in or below the folder of the model's file, without `./`. `None` for other
/// files, and for names that `sha256sum` would not print as they are.
fn plain_name(location: &str) -> Option<String> {
    let mut parts = Vec::new();
    for part in Path::new(location).components() {
        match part {
            Component::Normal(part) => parts.push(part.to_str()?),
            Component::CurDir => {}
            _ => return None,
        }
    }
    let name = parts.join("/");
    (!name.is_empty() && !name.contains(['\\', '\n', '\r'])).then_some(name)
}

/// The bytes of a tensor in a file of `size` bytes, `None` if the file is too short.
fn range(tensor: &ExternalTensor, size: usize) -> Option<std::ops::Range<usize>> {
    let start = usize::try_from(tensor.offset).ok()?;
    let end = match tensor.length {
        Some(length) => start.checked_add(usize::try_from(length).ok()?)?,
        None => size,
    };
    (start <= end && end <= size).then_some(start..end)
}

/// Reads a file into memory that can be shared, without a second copy.
fn read_shared(path: &Path) -> io::Result<Arc<[u8]>> {
    let mut file = File::open(path)?;
    let size = usize::try_from(file.metadata()?.len()).map_err(io::Error::other)?;
    let mut bytes: Arc<[u8]> = iter::repeat_n(0, size).collect();
    if let Some(bytes) = Arc::get_mut(&mut bytes) {
        file.read_exact(bytes)?;
    }
    Ok(bytes)
}

fn unreadable(path: &Path, error: &io::Error) -> String {
    format!("cannot read {}: {error}", path.display())
}

fn no_model(path: &Path) -> String {
    format!("{} is not an ONNX model", path.display())
}

fn lfs_pointer(path: &Path) -> String {
    format!(
        "{} is a pointer of Git LFS, not the file itself: run `git lfs pull` in the repository",
        path.display()
    )
}

#[cfg(test)]
mod tests;
