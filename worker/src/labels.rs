//! Reads the labels of outputs, from the files that `label_filename` in a config names.

use std::fs;

use crate::{
    classes::Labels,
    repository::{ModelSource, RepositoryError},
};

/// The labels of every output that has a file of labels: one label per line.
///
/// # Errors
///
/// A file cannot be read.
pub(crate) fn read(source: &ModelSource) -> Result<Labels, RepositoryError> {
    let mut labels = Labels::new();
    for output in &source.config.outputs {
        let Some(file) = &output.label_file else { continue };
        let path = source.folder.join(file);
        let text = fs::read_to_string(&path).map_err(|error| {
            let (name, path) = (&output.name, path.display());
            source.contradiction(format!("label_filename of output {name:?}: {path}: {error}"))
        })?;
        labels.insert(output.name.clone(), text.lines().map(str::to_owned).collect());
    }
    Ok(labels)
}
