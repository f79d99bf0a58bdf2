//! What to do about a repository in which no model is found: sentences for its owner.

use std::{
    fs,
    path::{Component, Path},
};

use super::names::{MODEL_NAME, version_number};

/// The layout of a repository.
pub(super) const LAYOUT: &str = "<model>/<version>/model.onnx";

/// Whether a folder is a part of a repository in place of the whole: the folder of a model or of a
/// version. `folders` are the names of the folders in it.
pub(super) fn on_root(root: &Path, folders: &[String]) -> Option<String> {
    let version = root.file_name().and_then(|name| version_number(name.to_str()?));
    if root.join("model.onnx").exists() && version.is_some() {
        let above = above(root, 2);
        return Some(format!("is the folder of a version: the repository is {above}"));
    }
    let is_version = |name: &String| {
        version_number(name).is_some() && root.join(name).join("model.onnx").exists()
    };
    if root.join("config.pbtxt").is_file() || folders.iter().any(is_version) {
        return Some(format!("is the folder of a model: the repository is {}", above(root, 1)));
    }
    None
}

/// The folder so many levels above another.
fn above(folder: &Path, levels: usize) -> String {
    let is_plain = |part: Component<'_>| !matches!(part, Component::ParentDir | Component::CurDir);
    let above = folder.ancestors().nth(levels).filter(|path| !path.as_os_str().is_empty());
    match above.filter(|_| folder.components().all(is_plain)) {
        Some(above) => above.display().to_string(),
        None => folder.join(vec![".."; levels].join("/")).display().to_string(),
    }
}

/// Why no folder is a model, if their names are the reason.
pub(super) fn on_names(left_out: &[String]) -> String {
    let visible: Vec<String> = left_out
        .iter()
        .filter(|name| !name.starts_with('.'))
        .map(|name| format!("{name:?}"))
        .collect();
    if visible.is_empty() {
        return String::new();
    }
    format!(
        "; {} cannot be served, because the name of a model has {MODEL_NAME}",
        visible.join(", ")
    )
}

/// Why a model has no version.
pub(super) fn on_no_version(model: &Path, file: &str) -> String {
    if model.join(file).exists() {
        let (from, to) = (model.join(file), model.join("1").join(file));
        return format!(
            "{} is not in the folder of a version: move it to {}",
            from.display(),
            to.display()
        );
    }
    "it has no version: expected a folder such as 1".to_owned()
}

/// Why a version has no model.
pub(super) fn on_no_file(version: &Path, file: &str) -> String {
    let missing = format!("there is no file {}", version.join(file).display());
    let mut others: Vec<String> = fs::read_dir(version)
        .into_iter()
        .flatten()
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter(|name| Path::new(name).extension().is_some_and(|ending| ending == "onnx"))
        .filter(|name| name != file)
        .collect();
    others.sort();
    let Some(other) = others.first() else { return missing };
    format!(
        "{missing}, but there is {other}: rename it, or say default_model_filename: {other:?} in \
         config.pbtxt"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_repository_is_named_from_a_folder_within_it() {
        let root = tempfile::tempdir().unwrap();
        let (model, version) = (root.path().join("m"), root.path().join("m/1"));
        fs::create_dir_all(&version).unwrap();
        assert_eq!(on_root(root.path(), &["m".to_owned()]), None);
        fs::write(version.join("model.onnx"), "").unwrap();
        assert_eq!(on_root(root.path(), &["m".to_owned()]), None);
        let repository = root.path().display();
        let found = on_root(&model, &["1".to_owned()]).unwrap();
        assert_eq!(found, format!("is the folder of a model: the repository is {repository}"));
        let found = on_root(&version, &[]).unwrap();
        assert_eq!(found, format!("is the folder of a version: the repository is {repository}"));
        assert_eq!(above(Path::new("a"), 2), "a/../..");
        assert_eq!(above(Path::new("./a/b"), 2), "./a/b/../..");
        assert_eq!(above(Path::new("/a/b"), 2), "/");
    }

    #[test]
    fn a_file_in_the_wrong_place_or_of_another_name_is_named_with_the_way_out() {
        let root = tempfile::tempdir().unwrap();
        assert!(on_no_version(root.path(), "model.onnx").starts_with("it has no version"));
        let missing = on_no_file(root.path(), "model.onnx");
        assert!(missing.ends_with("/model.onnx"), "{missing}");
        fs::write(root.path().join("model.onnx"), "").unwrap();
        let moved = on_no_version(root.path(), "model.onnx");
        assert!(moved.ends_with("/1/model.onnx"), "{moved}");
        let named = on_no_file(root.path(), "net.onnx");
        assert!(
            named.ends_with("default_model_filename: \"model.onnx\" in config.pbtxt"),
            "{named}"
        );
    }

    #[test]
    fn names_that_are_not_allowed_are_listed() {
        assert_eq!(on_names(&[".git".to_owned()]), "");
        let listed = on_names(&["my model".to_owned(), "..data".to_owned()]);
        assert!(listed.starts_with("; \"my model\" cannot be served"), "{listed}");
    }
}
